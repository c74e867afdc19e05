//! How much memory there is, and how much of it can be had: /proc/meminfo, proc(5).

use crate::paths::Paths;

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meminfo {
    /// `MemTotal`, which is the kernel's `totalram_pages()`.
    pub total: u64,
    /// `MemAvailable`: what can be had before something is swapped out or killed.
    pub available: u64,
}

impl Meminfo {
    /// None where it cannot be read: then nothing is known to be too much.
    pub fn read(paths: &Paths) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(paths.meminfo()).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Self { total: field("MemTotal")?, available: field("MemAvailable")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_of_it_count() {
        let text = "MemTotal:         262144 kB\nMemFree:        1 kB\nMemAvailable:  102400 kB\n";
        assert_eq!(Meminfo::parse(text), Some(Meminfo { total: 256 << 20, available: 100 << 20 }));
        for bad in [
            "",
            "MemTotal: 1 kB\n",
            "MemTotal: 1 kB\nMemAvailable: 1 MB\n",
            "MemTotal: -1 kB\nMemAvailable: 1 kB\n",
            "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n",
            "MemTotalX: 1 kB\nMemAvailable: 1 kB\n",
        ] {
            assert_eq!(Meminfo::parse(bad), None, "{bad}");
        }
        assert_eq!(Meminfo::read(&Paths::under("/nonexistent")), None);
    }
}
