//! The budgets, measured: times against the way people do it without phaseboot, sizes against limits.

use crate::arch::Arch;
use crate::build::{Built, PAYLOAD_BUDGET, megabytes};
use crate::e2e::{Leased, Results, Times};
use crate::kernels::Id;
use crate::machine::Firmware;
use crate::network::MANY;
use crate::scenarios::{Against, Initramfs, Scenario};

/// 1.3 MB: what an initramfs with modules may weigh.
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
    handovers(results);
    many(results);
    let fetch = |times: &Times| times.verified.zip(times.lease).map(|(verified, lease)| verified - lease);
    compare(results, "lease to verified, dead first DNS server", ["dead-first-dns", "debian-6.1"], fetch);
    for built in built {
        size(&format!("payload {}", built.arch), built.payload_size, PAYLOAD_BUDGET);
    }
    for arch in Arch::ALL {
        // Somebody else's init brings its own programs.
        let is_ours = |scenario: &Scenario| {
            !matches!(scenario.initramfs, Initramfs::Shell(_) | Initramfs::Commands(_) | Initramfs::Dracut(_))
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

/// How long it may take from kernel to kernel, for each second that the next one takes without one before it.
const HANDOVER_BUDGET: f64 = 1.5;

/// Prints how long each row took from the jump to the next kernel's init, beside that kernel's cold boot. Rows
/// run beside each other: their times are good for the ratio, which load changes little, and for nothing else.
fn handovers(results: &Results) {
    let rows = results.outcomes.iter().filter_map(|outcome| {
        let times = outcome.result.as_ref().ok()?;
        let cold = without_firmware(results, &outcome.scenario).or(times.cold)?;
        Some((outcome.scenario.full_name(), cold, times.handover?))
    });
    let mut rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    println!(
        "\nfrom kernel to kernel (seconds to the next kernel's init: from the jump, and from a cold boot)"
    );
    println!("{:<44} {:>8} {:>8} {:>6}", "", "jump", "cold", "ratio");
    for (name, cold, jump) in &rows {
        let ratio = jump / cold;
        let verdict =
            if ratio <= HANDOVER_BUDGET { String::new() } else { format!("  OVER {HANDOVER_BUDGET}") };
        println!("{name:<44} {jump:>8.2} {cold:>8.2} {ratio:>6.2}{verdict}");
    }
}

/// The cold boot of a kernel that firmware has started: what the same kernel took elsewhere in this run without
/// firmware, if it was started so. Its own figure begins with the kernel's first words, which come late or early.
fn without_firmware(results: &Results, scenario: &Scenario) -> Option<f64> {
    if scenario.machine.firmware == Firmware::Default {
        return None;
    }
    let rows = results.outcomes.iter().filter(|outcome| {
        let other = &outcome.scenario;
        other.machine.firmware == Firmware::Default
            && other.against == Against::FirstKernel
            && other.kernel == scenario.kernel
    });
    let figures = rows.filter_map(|outcome| {
        let cold = outcome.result.as_ref().ok()?.cold?;
        Some((outcome.scenario.machine.cpus != scenario.machine.cpus, cold))
    });
    figures.min_by(|one, other| one.0.cmp(&other.0)).map(|(_, cold)| cold)
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
