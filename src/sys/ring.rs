//! What of ring is done another way, with fewer bytes: multiples of the base points of P-256 and
//! Curve25519, computed as those of any other point, and SHA-2.
//!
//! ring has tables for them, 176 kB that do not compress: a tenth of what every machine downloads.
//! They save a server that signs all day some ten microseconds a time; this client would not notice.
//! SHA-256 and SHA-512 are there anyway, from the crate that hashes every downloaded byte; ring's own,
//! three and two times over for different processors, are 24 kB for the few blocks of a handshake.
//! The payload is linked with `--wrap` for these functions (`cargo lab build`): their callers get the
//! ones here instead, and the linker leaves ring's out. Linked without, nothing refers to this file.
//!
//! The names hold ring's version: with another one the tests do not link until this file and
//! `REPLACED` of qemu-fixtures/src/toolchain.rs have been looked at again.

use std::ffi::c_int;
use std::slice;

use sha2::block_api::{compress256, compress512};

/// A field element or scalar of P-256: crypto/fipsmodule/ec/p256_shared.h of ring, least word first.
type Limbs = [u64; 4];

/// The base point in affine coordinates, times 2^256 modulo p (Montgomery's form), as ring's generic
/// functions take points: SEC 2, section 2.4.2.
const BASE_X: Limbs =
    [0x79e7_30d4_18a9_143c, 0x75ba_95fc_5fed_b601, 0x79fb_732b_7762_2510, 0x1890_5f76_a537_55c6];
const BASE_Y: Limbs =
    [0xddf2_5357_ce95_560a, 0x8b4a_b8e4_ba19_e45c, 0xd2e8_8688_dd21_f325, 0x8571_ff18_2588_5d85];

/// RFC 7748, section 4.1: u = 9.
const BASE_U: [u8; 32] = {
    let mut u = [0; 32];
    u[0] = 9;
    u
};

// SAFETY: these are the functions of ring 0.17.14, crypto/fipsmodule/ec/p256-nistz.c and
// crypto/curve25519/curve25519.c. They read and write the arrays they are given, of these lengths,
// and take every scalar and every point of the curve.
unsafe extern "C" {
    #[link_name = "ring_core_0_17_14__p256_point_mul"]
    safe fn p256_point_mul(result: &mut [Limbs; 3], scalar: &Limbs, x: &Limbs, y: &Limbs);
    #[link_name = "ring_core_0_17_14__x25519_scalar_mult_generic_masked"]
    safe fn x25519_scalar_mult(result: &mut [u8; 32], scalar: &[u8; 32], u: &[u8; 32]);
}

/// `scalar` times the base point, in Jacobian coordinates. In constant time.
// SAFETY: `--wrap` gives nobody but ring this name, and ring declares the function so.
#[unsafe(export_name = "__wrap_ring_core_0_17_14__p256_point_mul_base")]
extern "C" fn p256_base(result: &mut [Limbs; 3], scalar: &Limbs) {
    p256_point_mul(result, scalar, &BASE_X, &BASE_Y);
}

/// The same, where the scalar is no secret.
// SAFETY: as for `p256_base`.
#[unsafe(export_name = "__wrap_ring_core_0_17_14__p256_point_mul_base_vartime")]
extern "C" fn p256_base_vartime(result: &mut [Limbs; 3], scalar: &Limbs) {
    p256_point_mul(result, scalar, &BASE_X, &BASE_Y);
}

/// The public key of a private one whose bits are masked already: RFC 7748, section 6.1.
// SAFETY: as for `p256_base`.
#[unsafe(export_name = "__wrap_ring_core_0_17_14__x25519_public_from_private_generic_masked")]
extern "C" fn x25519_base(public: &mut [u8; 32], private: &[u8; 32], _use_adx: c_int) {
    x25519_scalar_mult(public, private, &BASE_U);
}

/// SHA-2's compression functions, each under the names of all that ring has for it.
macro_rules! hashes {
    ($($compress:ident, [$word:ty; 8], [u8; $block:literal]: $($function:ident as $name:literal)*;)*) => {$($(
        // SAFETY: `--wrap` gives nobody but ring this name, and ring declares the function so: sha2_ffi()
        // of its src/digest/sha2/ffi.rs. There is room for eight words at `state`, nobody else's, and for
        // `count` blocks at `blocks`.
        #[unsafe(export_name = $name)]
        unsafe extern "C" fn $function(state: &mut [$word; 8], blocks: *const [u8; $block], count: usize) {
            // SAFETY: ring vouches for it, see above.
            $compress(state, unsafe { slice::from_raw_parts(blocks, count) });
        }
    )*)*};
}

hashes! {
    compress256, [u32; 8], [u8; 64]:
        sha256_plain as "__wrap_ring_core_0_17_14__sha256_block_data_order_nohw"
        sha256_ssse3 as "__wrap_ring_core_0_17_14__sha256_block_data_order_ssse3"
        sha256_avx as "__wrap_ring_core_0_17_14__sha256_block_data_order_avx"
        sha256_hw as "__wrap_ring_core_0_17_14__sha256_block_data_order_hw";
    compress512, [u64; 8], [u8; 128]:
        sha512_plain as "__wrap_ring_core_0_17_14__sha512_block_data_order_nohw"
        sha512_avx as "__wrap_ring_core_0_17_14__sha512_block_data_order_avx"
        sha512_hw as "__wrap_ring_core_0_17_14__sha512_block_data_order_hw";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // SAFETY: as above.
    unsafe extern "C" {
        #[link_name = "ring_core_0_17_14__p256_point_mul_base"]
        safe fn tabled(result: &mut [Limbs; 3], scalar: &Limbs);
        #[link_name = "ring_core_0_17_14__p256_point_mul_base_vartime"]
        safe fn tabled_vartime(result: &mut [Limbs; 3], scalar: &Limbs);
        #[link_name = "ring_core_0_17_14__p256_mul_mont"]
        safe fn product(result: &mut Limbs, a: &Limbs, b: &Limbs);
        #[link_name = "ring_core_0_17_14__x25519_public_from_private_generic_masked"]
        safe fn x25519_tabled(public: &mut [u8; 32], private: &[u8; 32], use_adx: c_int);
        #[link_name = "ring_core_0_17_14__sha256_block_data_order_nohw"]
        fn sha256_of_ring(state: &mut [u32; 8], blocks: *const [u8; 64], count: usize);
        #[link_name = "ring_core_0_17_14__sha512_block_data_order_nohw"]
        fn sha512_of_ring(state: &mut [u64; 8], blocks: *const [u8; 128], count: usize);
    }

    /// The order of the group, least word first: SEC 2, section 2.4.2.
    const ORDER: Limbs =
        [0xf3b9_cac2_fc63_2551, 0xbce6_faad_a717_9e84, 0xffff_ffff_ffff_ffff, 0xffff_ffff_0000_0000];

    fn times(a: &Limbs, b: &Limbs) -> Limbs {
        let mut result = [0; 4];
        product(&mut result, a, b);
        result
    }

    /// Whether two points in Jacobian coordinates are the same: x = X/Z^2, y = Y/Z^3.
    fn are_same([ax, ay, az]: &[Limbs; 3], [bx, by, bz]: &[Limbs; 3]) -> bool {
        let (az2, bz2) = (times(az, az), times(bz, bz));
        if *az == [0; 4] || *bz == [0; 4] {
            return az == bz;
        }
        times(ax, &bz2) == times(bx, &az2) && times(ay, &times(&bz2, bz)) == times(by, &times(&az2, az))
    }

    fn check_p256(scalar: &Limbs) {
        let (mut ours, mut other) = ([[0; 4]; 3], [[0; 4]; 3]);
        for (new, old) in [
            (
                p256_base as extern "C" fn(&mut [Limbs; 3], &Limbs),
                tabled as extern "C" fn(&mut [Limbs; 3], &Limbs),
            ),
            (p256_base_vartime, tabled_vartime),
        ] {
            new(&mut ours, scalar);
            old(&mut other, scalar);
            assert!(are_same(&ours, &other), "{scalar:x?}");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_as_with_the_tables() {
        for small in 0..70 {
            check_p256(&[small, 0, 0, 0]);
            let [least, a, b, c] = ORDER;
            check_p256(&[least - 1 - small, a, b, c]);
        }
        let mut twice = [[0; 4]; 3];
        p256_base(&mut twice, &[2, 0, 0, 0]);
        let mut once = [[0; 4]; 3];
        p256_base(&mut once, &[1, 0, 0, 0]);
        assert!(!are_same(&twice, &once));
    }

    /// RFC 7748, section 6.1: Alice's keys.
    #[test]
    fn a_public_key_of_the_rfc() {
        let mut private = *b"\x77\x07\x6d\x0a\x73\x18\xa5\x7d\x3c\x16\xc1\x72\x51\xb2\x66\x45\
            \xdf\x4c\x2f\x87\xeb\xc0\x99\x2a\xb1\x77\xfb\xa5\x1d\xb9\x2c\x2a";
        private[0] &= 248;
        private[31] = private[31] & 127 | 64;
        let mut public = [0; 32];
        x25519_base(&mut public, &private, 1);
        assert_eq!(
            &public,
            b"\x85\x20\xf0\x09\x89\x30\xa7\x54\x74\x8b\x7d\xdc\xb4\x3e\xf7\x5a\
              \x0d\xbf\x3a\x0d\x26\x38\x1a\xf4\xeb\xa4\xa9\x8e\xaa\x9b\x4e\x6a"
        );
    }

    proptest! {
        #[test]
        fn hashes_are_as_ring_has_them(
            blocks: [[[u8; 32]; 8]; 3], start256: [u32; 8], start512: [u64; 8], count in 1..4usize,
        ) {
            let blocks = blocks.as_flattened().as_flattened();
            for ours in [sha256_plain, sha256_ssse3, sha256_avx, sha256_hw] {
                let ours: unsafe extern "C" fn(&mut [u32; 8], *const [u8; 64], usize) = ours;
                let (mut new, mut old) = (start256, start256);
                // SAFETY: there are twelve blocks of 64 bytes.
                unsafe {
                    ours(&mut new, blocks.as_ptr().cast(), count);
                    sha256_of_ring(&mut old, blocks.as_ptr().cast(), count);
                }
                prop_assert_eq!(new, old);
            }
            for ours in [sha512_plain, sha512_avx, sha512_hw] {
                let ours: unsafe extern "C" fn(&mut [u64; 8], *const [u8; 128], usize) = ours;
                let (mut new, mut old) = (start512, start512);
                // SAFETY: there are six blocks of 128 bytes.
                unsafe {
                    ours(&mut new, blocks.as_ptr().cast(), count);
                    sha512_of_ring(&mut old, blocks.as_ptr().cast(), count);
                }
                prop_assert_eq!(new, old);
            }
        }

        #[test]
        fn points_of_p256_are_as_with_the_tables(a: u64, b: u64, c: u64, d in 0..0xffff_ffff_0000_0000u64) {
            check_p256(&[a, b, c, d]);
        }

        #[test]
        fn public_keys_are_as_with_the_tables(bytes: [u8; 32]) {
            let mut private = bytes;
            private[0] &= 248;
            private[31] = private[31] & 127 | 64;
            let (mut ours, mut other) = ([0; 32], [0; 32]);
            x25519_base(&mut ours, &private, 0);
            x25519_tabled(&mut other, &private, 0);
            prop_assert_eq!(ours, other);
        }
    }
}
