//! Devices that have to be quiet before the next kernel starts: taken from their drivers, then reset.
//! Documentation/ABI/testing/sysfs-bus-pci; class codes of the PCI Code and ID Assignment Specification.

use std::fs;
use std::io;
use std::path::PathBuf;

use log::{debug, info, warn};

use crate::config::Reset;
use crate::paths::Paths;
use crate::patience;

/// Classes, the upper byte of the code: mass storage, display, bridge.
const STORAGE: u32 = 0x01;
const DISPLAY: u32 = 0x03;
const BRIDGE: u32 = 0x06;
/// Timers, interrupt controllers, watchdogs: the board itself.
const PERIPHERAL: u32 = 0x08;
/// Class and subclass: the bus of the board's own chips, the watchdog of Intel's among them.
const SMBUS: u32 = 0x0c_05;
/// An xHCI USB controller: class, subclass, programming interface.
const XHCI: u32 = 0x0c_03_30;

/// PCI devices that have no driver any more, as they are called on the bus.
#[derive(Debug)]
pub(super) struct Quieted {
    devices: Vec<String>,
    bus: PathBuf,
}

impl Quieted {
    /// Takes the drivers of what `reset` names away and resets it. Disks are left alone where something
    /// on them is still mounted, and so are USB controllers then: a disk may hang on one. Ends within
    /// [`patience::LONGEST`].
    pub(super) fn quiet(reset: Reset, are_disks_free: bool, paths: &Paths) -> Self {
        let bus = paths.buses().join("pci");
        if reset == Reset::None {
            return Self { devices: Vec::new(), bus };
        }
        let devices: Vec<String> = chosen(&bus, reset, are_disks_free);
        info!("{} PCI devices are taken from their drivers and reset: phase.reset", devices.len());
        let work = {
            let (devices, bus) = (devices.clone(), bus.clone());
            move || devices.iter().for_each(|device| quiet(&bus, device))
        };
        if patience::within(patience::LONGEST, work).is_none() {
            warn!("a device is not quiet within {} s: going on", patience::LONGEST.as_secs());
        }
        Self { devices, bus }
    }

    /// Gives the devices to drivers again. A driver may hang in that.
    pub(super) fn undo(self) {
        for device in &self.devices {
            if let Err(error) = fs::write(self.bus.join("drivers_probe"), device) {
                debug!("{device} has no driver again: {error}");
            }
        }
    }
}

/// The devices with a driver that `reset` means, in the order of their names.
fn chosen(bus: &std::path::Path, reset: Reset, are_disks_free: bool) -> Vec<String> {
    let mut devices: Vec<String> = fs::read_dir(bus.join("devices"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("driver").exists())
        .filter(|entry| {
            let text = fs::read_to_string(entry.path().join("class")).unwrap_or_default();
            let code = text.trim().strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
            code.is_some_and(|code| is_meant(code, reset, are_disks_free))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    devices.sort();
    devices
}

/// Whether a device of this class code is to be quiet.
fn is_meant(code: u32, reset: Reset, are_disks_free: bool) -> bool {
    match (reset, code >> 16) {
        (Reset::None, _) => false,
        (Reset::Xhci, _) => code == XHCI && are_disks_free,
        // The next kernel draws into the framebuffer that this one has, bridges lead to the others, and a
        // watchdog without its driver is stopped.
        (Reset::Pci, DISPLAY | BRIDGE | PERIPHERAL) => false,
        (Reset::Pci, _) if code >> 8 == SMBUS => false,
        (Reset::Pci, STORAGE) => are_disks_free,
        (Reset::Pci, _) => code != XHCI || are_disks_free,
    }
}

fn quiet(bus: &std::path::Path, device: &str) {
    let folder = bus.join("devices").join(device);
    if let Err(error) = fs::write(folder.join("driver/unbind"), device) {
        warn!("{device} stays with its driver: {error}");
        return;
    }
    match fs::write(folder.join("reset"), "1") {
        Ok(()) => debug!("{device} was reset"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            debug!("{device} has no driver now, and no reset of its own");
        }
        Err(error) => warn!("{device} cannot be reset: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: u32 = 0x02_0000;
    const NVME: u32 = 0x01_0802;
    const VGA: u32 = 0x03_0000;
    const PORT: u32 = 0x06_0400;
    const WATCHDOG: u32 = 0x08_8000;

    #[test]
    fn screens_and_the_board_are_never_meant_and_disks_only_when_free() {
        let meant = |reset, free| [NIC, NVME, VGA, PORT, XHCI].map(|code| is_meant(code, reset, free));
        assert_eq!([WATCHDOG, SMBUS << 8].map(|code| is_meant(code, Reset::Pci, true)), [false; 2]);
        assert_eq!(meant(Reset::None, true), [false; 5]);
        assert_eq!(meant(Reset::Xhci, true), [false, false, false, false, true]);
        assert_eq!(meant(Reset::Xhci, false), [false; 5]);
        assert_eq!(meant(Reset::Pci, true), [true, true, false, false, true]);
        assert_eq!(meant(Reset::Pci, false), [true, false, false, false, false]);
    }

    /// A bus as /sys shows it. What is written to one device's `unbind` does not take its link away here.
    #[test]
    fn drivers_go_first_then_the_reset_and_both_come_back() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let bus = paths.buses().join("pci");
        for (device, class, driver) in [
            ("0000:00:02.0", "0x020000", true),
            ("0000:00:03.0", "0x020000", false),
            ("0000:00:1f.0", "x", true),
        ] {
            let folder = bus.join("devices").join(device);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("class"), format!("{class}\n")).unwrap();
            fs::write(folder.join("reset"), "").unwrap();
            if driver {
                fs::create_dir(folder.join("driver")).unwrap();
            }
        }
        fs::write(bus.join("drivers_probe"), "").unwrap();
        let quieted = Quieted::quiet(Reset::Pci, true, &paths);
        assert_eq!(quieted.devices, ["0000:00:02.0"]);
        let of = |device: &str, file: &str| fs::read_to_string(bus.join("devices").join(device).join(file));
        assert_eq!(of("0000:00:02.0", "driver/unbind").unwrap(), "0000:00:02.0");
        assert_eq!(of("0000:00:02.0", "reset").unwrap(), "1");
        assert_eq!(of("0000:00:03.0", "reset").unwrap(), "");
        quieted.undo();
        assert_eq!(fs::read_to_string(bus.join("drivers_probe")).unwrap(), "0000:00:02.0");
        assert!(Quieted::quiet(Reset::Pci, true, &Paths::under("/nonexistent")).devices.is_empty());
    }
}
