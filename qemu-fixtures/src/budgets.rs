//! The budgets, measured: times against the way people do it without phaseboot, sizes against limits.

use crate::arch::Arch;
use crate::build::{Built, PAYLOAD_BUDGET, megabytes};
use crate::e2e::{Leased, Results, Times};
use crate::kernels::Id;
use crate::network::MANY;
use crate::scenarios::{Initramfs, Scenario};

/// 1.3 MB: what an initramfs may weigh, with the modules for the devices of its machine.
const INITRAMFS_BUDGET: u64 = 1_300_000;

/// Prints the table. Only runs that had the host for themselves are in it.
pub(crate) fn print<'a>(results: &Results, built: impl Iterator<Item = &'a Built>) {
    println!(
        "\nbudgets (seconds since PID 1 started, by the host's clock; handover: from exec to the next init)"
    );
    println!(
        "{:<28} {:>8} {:>9} {:>8} {:>9} {:>10}",
        "", "lease", "verified", "exec", "handover", "initramfs"
    );
    for outcome in results.outcomes.iter().filter(|outcome| outcome.scenario.timed) {
        let Ok(ours) = &outcome.result else { continue };
        times(&outcome.scenario.full_name(), ours);
        match results.peers.iter().find(|(arch, _)| outcome.scenario.compares(*arch)) {
            Some((_, Ok(peers))) => {
                times("  shell init, kexec -l", peers);
                ratios(ours, peers);
            }
            Some((_, Err(_))) => println!("  shell init, kexec -l       no figure"),
            None => {}
        }
    }
    many(results);
    let fetch = |times: &Times| times.verified.zip(times.lease).map(|(verified, lease)| verified - lease);
    compare(results, "lease to verified, dead first DNS server", ["dead-first-dns", "debian-6.1"], fetch);
    for built in built {
        size(&format!("payload {}", built.arch), built.payload_size, PAYLOAD_BUDGET);
    }
    for arch in Arch::ALL {
        // Somebody else's init brings its own programs, and bonds want the largest module of all.
        let is_ours = |scenario: &Scenario| {
            scenario.modules.is_empty()
                && !matches!(
                    scenario.initramfs,
                    Initramfs::Shell(_) | Initramfs::Commands(_) | Initramfs::Dracut(_)
                )
        };
        let of_arch = results
            .outcomes
            .iter()
            .filter(|outcome| outcome.scenario.kernel == Id::Debian61(arch) && is_ours(&outcome.scenario));
        let largest =
            of_arch.filter_map(|outcome| outcome.result.as_ref().ok()).map(|times: &Times| times.initramfs);
        if let Some(largest) = largest.max() {
            size(&format!("initramfs {arch}"), largest, INITRAMFS_BUDGET);
        }
    }
}

/// What many cards cost: all of it, and what is left where the driver of the one that works has finished.
fn many(results: &Results) {
    let names = [MANY, "one-for-sixteen-nics"];
    compare(results, "lease, 16 cards against 1", names, |times| times.lease);
    compare(results, "lease since its card is there, 16 cards against 1", names, |times| times.lease_of_card);
    if let Some(Leased { since_start, since_cards }) = results.many {
        let (start, cards) = (seconds(since_start), seconds(since_cards));
        println!(
            "lease, 16 cards, shell init with a udhcpc for each: {start} s, since the cards are there {cards} s"
        );
    }
}

/// What costs time only if something is wrong: a figure of one scenario against the same of another.
fn compare(results: &Results, what: &str, names: [&str; 2], figure: fn(&Times) -> Option<f64>) {
    let of = |name: &&str| {
        let full = format!("e2e/x86_64/{name}");
        let outcome = results.outcomes.iter().find(|outcome| outcome.scenario.full_name() == full)?;
        figure(outcome.result.as_ref().ok()?)
    };
    if let [Some(one), Some(other)] = names.each_ref().map(of) {
        let ratio = ratio(Some(one), Some(other));
        println!("{what}: {one:.2} s in {}, {other:.2} s in {}, ratio {ratio}", names[0], names[1]);
    }
}

fn times(name: &str, times: &Times) {
    println!(
        "{name:<28} {:>8} {:>9} {:>8} {:>9} {:>7.2} MB",
        seconds(times.lease),
        seconds(times.verified),
        seconds(times.exec),
        seconds(times.handover),
        megabytes(times.initramfs)
    );
}

fn ratios(ours: &Times, peers: &Times) {
    println!(
        "{:<28} {:>8} {:>9} {:>8} {:>9} {:>10.2}",
        "  ratio",
        ratio(ours.lease, peers.lease),
        ratio(ours.verified, peers.verified),
        ratio(ours.exec, peers.exec),
        ratio(ours.handover, peers.handover),
        megabytes(ours.initramfs) / megabytes(peers.initramfs)
    );
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn ratio(ours: Option<f64>, peers: Option<f64>) -> String {
    seconds(ours.zip(peers.filter(|peers| *peers > 0.0)).map(|(ours, peers)| ours / peers))
}

fn size(name: &str, bytes: u64, budget: u64) {
    let verdict = if bytes <= budget { "within" } else { "OVER" };
    println!("{name:<28} {:.2} MB, {verdict} {:.1} MB", megabytes(bytes), megabytes(budget));
}
