//! MODP groups.

pub(in crate::crypto) struct Prime;
pub(in crate::crypto) static MODP_768: Prime = Prime;
pub(in crate::crypto) static MODP_1024: Prime = Prime;
pub(in crate::crypto) static MODP_1536: Prime = Prime;
pub(in crate::crypto) static MODP_2048: Prime = Prime;
pub(in crate::crypto) static MODP_3072: Prime = Prime;
pub(in crate::crypto) static MODP_4096: Prime = Prime;
pub(in crate::crypto) static MODP_6144: Prime = Prime;
pub(in crate::crypto) static MODP_8192: Prime = Prime;
pub(in crate::crypto) static MODP_1024_160: Prime = Prime;
pub(in crate::crypto) static MODP_2048_224: Prime = Prime;
pub(in crate::crypto) static MODP_2048_256: Prime = Prime;
