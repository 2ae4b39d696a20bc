//! Elliptic curves over a prime field: groups 19, 20 and 21 (RFC 5903).
//!
//! ```text
//!   KE data:  x ‖ y      each as long as the field, without SEC1's leading octet 04   (RFC 5903 §7)
//!   g^ir:     x          of the shared point                                             (RFC 5903 §9)
//! ```

use std::marker::PhantomData;

use p256::NistP256;
use p256::elliptic_curve::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::{FromSec1Point, ModulusSize, ToSec1Point};
use p256::elliptic_curve::{
    AffinePoint, CurveArithmetic, FieldBytesSize, Generate, NonZeroScalar, PublicKey, SecretKey,
};
use p384::NistP384;
use p521::NistP521;
use zeroize::Zeroizing;

use super::{InvalidPublicValue, KexMethod, PrivateValue};
use crate::crypto::keys::Secret;
use crate::crypto::random::Generator;

/// A curve of RFC 5903.
pub(in crate::crypto) struct Curve<C>(PhantomData<fn() -> C>);

/// Group 19.
pub(in crate::crypto) static P256: Curve<NistP256> = Curve(PhantomData);
/// Group 20.
pub(in crate::crypto) static P384: Curve<NistP384> = Curve(PhantomData);
/// Group 21.
pub(in crate::crypto) static P521: Curve<NistP521> = Curve(PhantomData);

/// SEC1's tag of an uncompressed point, with both coordinates.
const UNCOMPRESSED: u8 = 4;

impl<C> KexMethod for Curve<C>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    fn generate(
        &'static self,
        _strength: u16,
        rng: &mut Generator,
    ) -> (Box<dyn PrivateValue>, Vec<u8>) {
        let secret = SecretKey::<C>::generate_from_rng(rng.inner());
        let public = coordinates(&secret.public_key());
        (Box::new(secret), public)
    }
}

impl<C> PrivateValue for SecretKey<C>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        let mut point = vec![UNCOMPRESSED];
        point.extend(peer);
        // Checks that both coordinates are below p and that they satisfy the curve's equation (RFC 6989 §2.3).
        let peer =
            PublicKey::<C>::from_sec1_bytes(&point).map_err(|_| InvalidPublicValue::OffCurve)?;
        let scalar = Zeroizing::new(self.to_nonzero_scalar());
        // Passed by reference: the type is `Copy`, and a copy would not be wiped.
        let scalar: &NonZeroScalar<C> = &scalar;
        let shared = diffie_hellman(scalar, peer.as_affine());
        Ok(Secret::from_slice(shared.raw_secret_bytes()))
    }
}

fn coordinates<C>(public: &PublicKey<C>) -> Vec<u8>
where
    C: CurveArithmetic,
    FieldBytesSize<C>: ModulusSize,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
{
    let point = public.to_sec1_point(false);
    point.as_bytes().iter().skip(1).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::registry::GROUP;
    use crate::crypto::{KeyExchange, vectors};

    #[test]
    fn rfc_5903_test_data() {
        fn check<C>(case: &vectors::Case)
        where
            C: CurveArithmetic,
            FieldBytesSize<C>: ModulusSize,
            AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
        {
            for (x, own, peer) in [("x-a", "y-a", "y-b"), ("x-b", "y-b", "y-a")] {
                let secret = SecretKey::<C>::from_slice(&case.bytes(x)).unwrap();
                assert_eq!(
                    coordinates(&secret.public_key()),
                    case.bytes(own),
                    "{}",
                    case.title
                );
                assert_eq!(
                    secret.agree(&case.bytes(peer)).unwrap().as_bytes(),
                    case.bytes("z"),
                    "{}",
                    case.title
                );
            }
        }
        for case in vectors::cases(include_str!("../../../tests/vectors/rfc5903.txt")) {
            match case.text("group") {
                "ecp256" => check::<NistP256>(&case),
                "ecp384" => check::<NistP384>(&case),
                "ecp521" => check::<NistP521>(&case),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn n07_a_point_that_is_not_on_the_curve_is_rejected() {
        let mut rng = Generator::from_seed([5; 32]);
        for group in GROUP.iter().filter(|group| group.word.starts_with("ecp")) {
            let ours = KeyExchange::generate(group, &mut rng);
            let theirs = KeyExchange::generate(group, &mut rng).public().to_vec();
            let half = theirs.len() / 2;
            assert!(ours.agree(&theirs).is_ok());

            let mut moved = theirs.clone();
            *moved.last_mut().unwrap() ^= 1;
            let swapped = [&theirs[half..], &theirs[..half]].concat();
            let beyond_p = [&vec![0xff; half], &theirs[half..]].concat();
            let origin = vec![0; theirs.len()];
            let x_only = [&theirs[..half], &vec![0; half]].concat();
            for bad in [moved, swapped, beyond_p, origin, x_only] {
                assert_eq!(
                    ours.agree(&bad),
                    Err(InvalidPublicValue::OffCurve),
                    "{group}"
                );
            }
        }
    }
}
