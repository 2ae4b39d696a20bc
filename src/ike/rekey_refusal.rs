//! What a person should know when the peer does not rekey: it shows hours after the connect, so the words say what it means (RFC 7296 §1.3, §2.8).

use super::event::Rekey;
use super::failure::Failure;
use super::settings::Settings;
use crate::net::Time;
use crate::wire::{Notify, NotifyType};

/// The peer answers a request to rekey with this notification.
pub fn refused(at: Time, what: Rekey, notify: &Notify, settings: &Settings) -> Failure {
    let (sa, key, phase) = match what {
        Rekey::Child => ("Child SA", "esp", "phase 2"),
        Rekey::Ike => ("IKE SA", "ike", "phase 1"),
    };
    let ours = match what {
        Rekey::Child => super::exchange::init::join(settings.esp.iter()),
        Rekey::Ike => super::exchange::init::join(settings.ike.iter()),
    };
    let advice = if notify.kind == NotifyType::NO_PROPOSAL_CHOSEN
        || notify.kind == NotifyType::INVALID_KE_PAYLOAD
    {
        let group = match what {
            Rekey::Child => " Mind the PFS group: it takes part in rekeying only.",
            Rekey::Ike => "",
        };
        format!(
            "Set the peer's {phase} to {ours}, or `{key}` on this tunnel to the peer's.{group} Until then the tunnel is made anew before its SAs expire."
        )
    } else if notify.kind == NotifyType::NO_ADDITIONAL_SAS {
        "The peer does not rekey at all: the tunnel is made anew before its SAs expire. Turn rekeying on at the peer, if it can.".to_owned()
    } else if notify.kind == NotifyType::TS_UNACCEPTABLE {
        "Make `local` and `remote` on this tunnel the mirror image of the peer's.".to_owned()
    } else {
        "Look into the peer's log for its reason.".to_owned()
    };
    Failure {
        at,
        code: "rekey-refused",
        text: format!(
            "the peer refuses to rekey the {sa} with {}; we propose {ours}",
            notify.kind
        ),
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::settings::tests::settings;

    #[test]
    fn a_refused_rekey_names_both_sides_and_the_group_that_is_likely_to_blame() {
        let settings = settings("aes128-sha256-modp2048", "aes128-sha1-modp1024");
        let notify = Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new());
        let failure = refused(Time::ZERO, Rekey::Child, &notify, &settings);
        assert!(failure.text.contains("NO_PROPOSAL_CHOSEN"));
        assert!(failure.text.contains("aes128-sha1-modp1024"));
        assert!(failure.advice.contains("PFS group"));
        let failure = refused(Time::ZERO, Rekey::Ike, &notify, &settings);
        assert!(failure.text.contains("aes128-sha256-modp2048"));
    }
}
