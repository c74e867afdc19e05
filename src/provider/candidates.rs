//! Where a manifest may be, below a provider URL: pure.

use crate::arch::Arch;

/// Manifest URLs of one provider to ask, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates(Vec<String>);

impl Candidates {
    /// The provider URL itself if it names a `.json`; else the signed manifest of the channel and
    /// architecture, the one `plasmd` keeps there, and one at the top, each with the provider's query.
    pub fn new(provider: &str, channel: &str, arch: Arch) -> Self {
        let (path, query) = provider.split_at(provider.find(['?', '#']).unwrap_or(provider.len()));
        if path.ends_with(".json") {
            return Self(vec![provider.to_owned()]);
        }
        let top = path.trim_end_matches('/');
        let below = format!("{top}/{channel}/{arch}/manifest");
        Self(vec![
            format!("{below}.signed.json{query}"),
            format!("{below}.json{query}"),
            format!("{top}/manifest.json{query}"),
        ])
    }

    /// The URLs.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_design() {
        let urls = |provider| Candidates::new(provider, "stable", Arch::Aarch64).0;
        assert_eq!(
            urls("http://a/"),
            [
                "http://a/stable/arm64/manifest.signed.json",
                "http://a/stable/arm64/manifest.json",
                "http://a/manifest.json",
            ]
        );
        assert_eq!(urls("https://b/x.json?token=1"), ["https://b/x.json?token=1"]);
        assert_eq!(urls("https://b/x?token=1")[2], "https://b/x/manifest.json?token=1");
    }
}
