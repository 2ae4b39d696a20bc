//! The IKE engine without a network: two endpoints, a clock that jumps, and a wire that loses, delays, duplicates and reorders as the test says.

mod answers;
mod deletes;
mod esp;
mod esp_transport;
mod faults;
mod followup;
mod fragments;
mod handshake;
mod hostile;
#[cfg(feature = "testing")]
mod impaired;
#[cfg(feature = "testing")]
mod impaired_kem;
mod insider;
mod keys;
mod lifecycle;
mod message_ids;
mod monitor;
mod moves;
mod node;
mod openings;
mod orders;
mod pair;
mod post_quantum;
mod recovery;
mod rekey_child;
mod rekey_ike;
mod requests;
mod requests_followup;
mod requests_ike;
mod rogue;
mod script;
mod strangers;
mod unproved;
mod untidy;
mod walk;
mod wire;
