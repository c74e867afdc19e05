//! A plan for people: a table for each call.

use std::fmt;

use super::{Attempt, Content, LoadPlan, Plan};
use crate::image::Wrapping;
use crate::log::bytes;

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel { .. } => "kernel",
            Self::Initrd => "ramdisk",
            Self::BootParams(_) => "boot params",
            Self::DeviceTree(_) => "device tree",
            Self::Trampoline(_) => "trampoline",
        })
    }
}

/// Without the bytes: the tree holds seeds.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the kernel was wrapped in; each call under a header of its own: for kexec_file_load the files it is given, for kexec_load what
/// goes where; then the calls that are left out, and the command line.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = &self.target.kernel;
        if !kernel.wrappings().is_empty() {
            let wrappings = Wrapping::list(kernel.wrappings());
            writeln!(f, "{}: {wrappings} > {}", kernel.name(), bytes(kernel.size()))?;
        }
        for attempt in &self.attempts {
            match attempt {
                Attempt::FileLoad { cmdline } => {
                    writeln!(f, "kexec_file_load: the running kernel places")?;
                    writeln!(f, "  {:<12} {:>9}", kernel.name(), bytes(kernel.size()))?;
                    if let Some(ramdisk) = &self.target.ramdisk {
                        writeln!(f, "  {:<12} {:>9}", ramdisk.name(), bytes(ramdisk.size()))?;
                    }
                    if cmdline.to_bytes() != self.target.cmdline.as_bytes() {
                        writeln!(f, "  command line: {}", cmdline.to_string_lossy())?;
                    }
                }
                Attempt::Load(plan) => plan.fmt(f)?,
            }
        }
        if let Some(preference) = self.preference() {
            writeln!(f, "{preference}")?;
        }
        for untried in &self.untried {
            writeln!(f, "{untried}")?;
        }
        write!(f, "command line: {}", self.target.cmdline)
    }
}

/// Physical addresses, the end not included; how big a segment is, and how much of it comes from a file.
impl fmt::Display for LoadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |address: u64, size: u64| format!("{:#x}", address.saturating_add(size));
        let ends = self.segments.iter().map(|segment| end(segment.address, segment.size).len());
        let width = ends.max().unwrap_or(0);
        writeln!(f, "kexec_load: entered at {:#x}", self.entry)?;
        writeln!(f, "  {:<12} {:<width$} {:<width$} {:>9} {:>9}", "segment", "from", "to", "size", "copied")?;
        for segment in &self.segments {
            writeln!(
                f,
                "  {:<12} {:#0width$x} {:#0width$x} {:>9} {:>9}",
                segment.content,
                segment.address,
                segment.address.saturating_add(segment.size),
                bytes(segment.size),
                bytes(segment.file),
            )?;
        }
        Ok(())
    }
}
