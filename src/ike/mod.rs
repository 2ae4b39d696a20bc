//! (ike)
