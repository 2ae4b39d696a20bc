//! Tests of the IKE engine without a network: two endpoints, a simulated clock, and a simulated network that loses, delays,
//! duplicates and reorders messages.

mod authenticated_peer;
mod children;
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
mod init;
mod keys;
mod lifecycle;
mod many;
mod message_ids;
mod message_orders;
mod monitor;
mod node;
mod odd_but_legal;
mod pair;
mod peer_defaults;
mod peer_moves;
mod post_quantum;
mod random_walk;
mod recovery;
mod rekey_child;
mod rekey_ike;
mod reports;
mod requests;
mod requests_followup;
mod requests_ike;
mod responses;
mod script;
mod scripted_peer;
mod unauthenticated;
mod unproved;
mod wire;
