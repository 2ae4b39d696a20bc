//! (esp)
