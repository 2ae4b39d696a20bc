//! Whether a message of somebody else's exchange has everything we would want of it: the shapes, asked from outside.

use super::error::Error;
use super::messages::{
    AuthAnswer, AuthRequest, CreateAnswer, CreateRequest, Informational, Init, InitAnswer,
    Intermediate, IntermediateAnswer,
};
use crate::wire::{ExchangeType, Header, MessageId, Payload};

/// Reads the payloads of a message as its receiver would, for those who only look on.
///
/// # Errors
/// In words: which payload is missing, or stands twice, or says what it may not.
pub fn validate(header: &Header, payloads: &[Payload]) -> Result<(), String> {
    let payloads = payloads.to_vec();
    let read = match (header.exchange, header.flags.response) {
        (ExchangeType::IKE_SA_INIT, false) => Init::read(payloads).map(drop),
        (ExchangeType::IKE_SA_INIT, true) => InitAnswer::read(payloads).map(drop),
        // What follows the first exchange belongs to EAP, or to a second authentication.
        (ExchangeType::IKE_AUTH, _) if header.message_id != MessageId(1) => Ok(()),
        (ExchangeType::IKE_AUTH, false) => AuthRequest::read(payloads).map(drop),
        (ExchangeType::IKE_AUTH, true) => AuthAnswer::read(payloads).map(drop),
        (ExchangeType::IKE_INTERMEDIATE, false) => Intermediate::read(payloads).map(drop),
        (ExchangeType::IKE_INTERMEDIATE, true) => IntermediateAnswer::read(payloads).map(drop),
        (ExchangeType::CREATE_CHILD_SA, false) => CreateRequest::read(payloads).map(drop),
        (ExchangeType::CREATE_CHILD_SA, true) => CreateAnswer::read(payloads).map(drop),
        (ExchangeType::INFORMATIONAL, _) => Informational::read(payloads).map(drop),
        (_, _) => Ok(()),
    };
    read.map_err(|error| match error {
        Error::Malformed(what) => what,
        Error::UnsupportedCritical(kind) => format!("payload {kind} is critical and unknown"),
        Error::Misbehaved(what) => what.to_owned(),
        Error::Incompatible(_) | Error::Denied(_) => "it is refused".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Flags, IkeSpi, Ke, Notify, NotifyType, Sa};

    fn header(exchange: ExchangeType, response: bool) -> Header {
        let flags = Flags {
            response,
            ..Flags::default()
        };
        Header::new(IkeSpi(1), IkeSpi(2), exchange, flags, MessageId(1))
    }

    #[test]
    fn what_is_missing_is_named() {
        let request = header(ExchangeType::IKE_SA_INIT, false);
        let answer = header(ExchangeType::IKE_SA_INIT, true);
        let ke = Payload::Ke(Ke {
            group: 14,
            data: Vec::new(),
        });
        let sa = Payload::Sa(Sa::default());
        let short = validate(&request, std::slice::from_ref(&sa));
        assert_eq!(short, Err("payload KE is missing".to_owned()));
        let twice = validate(&request, &[ke.clone(), ke.clone()]);
        assert_eq!(twice, Err("payload KE stands twice".to_owned()));
        let whole = [sa, ke, Payload::Nonce(vec![0; 32])];
        assert_eq!(validate(&request, &whole), Ok(()));
        let refusal = Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()));
        assert_eq!(validate(&answer, &[refusal]), Ok(()));
        assert!(validate(&answer, &[]).is_err());
        let create = header(ExchangeType::CREATE_CHILD_SA, false);
        assert!(validate(&create, &whole[..1]).is_err());
        assert_eq!(validate(&header(ExchangeType(240), false), &[]), Ok(()));
    }
}
