//! HTTP servers that are faulty, and one behind a proxy.

use super::{X86, boots, boots_with, fails};
use crate::faulty::{Fault, Faults};
use crate::scenarios::{Check, Scenario, Serve, Step};

/// What a connection that breaks may cost: one buffer (bytes).
const BUFFER: usize = 128 * 1024;

pub(super) fn all() -> Vec<Scenario> {
    let faulty = |name, faults: Faults, step| Scenario {
        serve: Serve::Faulty(faults),
        ..Scenario::new(name, X86, vec![step])
    };
    let refused = |name, faults, code, says| {
        faulty(name, faults, Step { cmdline: "phase.timeout=60", ..fails(code, says) })
    };
    const WHOLE: &[Check] = &[Check::TriedAgain(0)];
    const CUTS: &[usize] = &[10, 25, 40, 60, 85];
    const CUT: &[Check] =
        &[Check::SentAgain { file: "kernel", most: CUTS.len() * BUFFER }, Check::TriedAgain(0)];
    vec![
        Scenario {
            serve: Serve::Proxied,
            provider: Some("http://provider.invalid"),
            ..Scenario::new("proxy", X86, vec![boots_with("phase.proxy=http://10.0.2.2:{proxy}", WHOLE)])
        },
        faulty("cut-five-times", &[("kernel", Fault::CutAt(CUTS))], boots(CUT)),
        faulty(
            "weak-server",
            &[
                ("manifest", Fault::Unavailable(2)),
                ("kernel", Fault::ResetAt(40)),
                ("initramfs", Fault::ShortRanges(100_000)),
            ],
            boots(WHOLE),
        ),
        faulty(
            "weaker-server",
            &[
                ("manifest", Fault::Unavailable(1)),
                ("kernel", Fault::IgnoresRanges),
                ("initramfs", Fault::StallAt(50, 1)),
            ],
            boots(WHOLE),
        ),
        // Long enough for a word of progress.
        faulty(
            "log-in-json",
            &[("kernel", Fault::Slow(2_000_000))],
            boots_with("phase.log=json", &[Check::JsonOnly, Check::Says("MB/s, ")]),
        ),
        faulty("flipped-bit-once", &[("kernel", Fault::FlipBitOnce)], boots(WHOLE)),
        faulty(
            "stalls",
            &[("kernel", Fault::StallAt(50, usize::MAX))],
            Step { cmdline: "phase.timeout=25", ..fails(11, "kernel") },
        ),
        refused("length-too-long", &[("kernel", Fault::AnnouncesMore)], 15, "kernel"),
        refused("length-too-short", &[("kernel", Fault::AnnouncesLess)], 15, "kernel"),
        refused("redirects-in-circles", &[("manifest", Fault::Circles)], 11, "redirect"),
        refused("endless-head", &[("manifest", Fault::EndlessHead)], 11, "manifest"),
        refused("garbage", &[("manifest", Fault::Garbage)], 11, "manifest"),
    ]
}
