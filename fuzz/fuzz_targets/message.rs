//! No input makes the parser of IKE messages panic, and an accepted message encodes to bytes that parse to the same message.
//!
//! The input is a datagram. It is also parsed with corrected length and version, so that the fuzzer need not guess them, and as
//! the plaintext of an Encrypted payload. Run on the stable toolchain with `cargo fuzz run -s none message fuzz/corpus/message
//! fuzz/seeds/message`; the seeds are charon's own messages.
#![no_main]

use groundlink::wire::{Header, Message, PayloadType, chain, sk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    message(datagram);
    message(&with_length_and_version(datagram));
    if let [first, plaintext @ ..] = datagram {
        inside(PayloadType(*first), plaintext);
    }
});

fn message(datagram: &[u8]) {
    let Ok(read) = Message::parse(datagram) else {
        return;
    };
    let laid_out = read.encode().expect("what was read fits its length fields");
    let again = Message::parse(&laid_out).expect("what was laid out is read");
    assert_eq!(
        (again.header, &again.clear, again.sealed),
        (read.header, &read.clear, read.sealed)
    );
    if let Some(sealed) = read.sealed {
        assert_eq!(
            again.bytes.get(sealed.aad_len..),
            read.bytes.get(sealed.aad_len..)
        );
    }
}

fn inside(first: PayloadType, plaintext: &[u8]) {
    let Ok(body) = sk::unpad(plaintext) else {
        return;
    };
    let Ok(read) = chain::parse(first, body, 0) else {
        return;
    };
    let mut laid_out = Vec::new();
    let first = chain::encode(&read, &mut laid_out).expect("what was read fits its length fields");
    assert_eq!(chain::parse(first, &laid_out, 0).as_ref(), Ok(&read));
}

fn with_length_and_version(datagram: &[u8]) -> Vec<u8> {
    let mut whole = datagram.to_vec();
    whole.resize(whole.len().max(Header::LEN), 0);
    whole[17] = 0x20;
    let length = u32::try_from(whole.len()).expect("no input is that large");
    whole[24..28].copy_from_slice(&length.to_be_bytes());
    whole
}
