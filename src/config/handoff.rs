//! What is done to the machine before the next kernel starts.

/// `phase.links` and `phase.reset`, or `--links` and `--reset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handoff {
    pub links: Links,
    pub reset: Reset,
}

/// What becomes of the network links when the next kernel takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// They stay as they are: the kernel quiets their devices.
    #[default]
    Keep,
    /// Each is set down first.
    Down,
}

/// Which devices are taken from their drivers and reset before the next kernel takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reset {
    #[default]
    None,
    /// Every PCI device but bridges, screens and the board's own controllers.
    Pci,
    /// USB controllers of the kind xHCI.
    Xhci,
}

impl Links {
    /// `keep` or `down`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "keep" => Some(Self::Keep),
            "down" => Some(Self::Down),
            _ => None,
        }
    }
}

impl Reset {
    /// `none`, `pci` or `xhci`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "pci" => Some(Self::Pci),
            "xhci" => Some(Self::Xhci),
            _ => None,
        }
    }
}
