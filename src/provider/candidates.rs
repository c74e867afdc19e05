//! Where a manifest may be, below the provider URLs: pure.

use crate::arch::Arch;

/// Manifest URLs to ask, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates(Vec<Vec<String>>);

impl Candidates {
    /// For each provider URL: itself if it names a `.json`; else the signed manifest of the channel
    /// and architecture, the one `plasmd` keeps there, and one at the top.
    pub fn new(providers: &[String], channel: &str, arch: Arch) -> Self {
        let below = |provider: &String| {
            let path = provider.split(['?', '#']).next().unwrap_or(provider);
            if path.ends_with(".json") {
                return vec![provider.clone()];
            }
            let top = path.trim_end_matches('/');
            vec![
                format!("{top}/{channel}/{arch}/manifest.signed.json"),
                format!("{top}/{channel}/{arch}/manifest.json"),
                format!("{top}/manifest.json"),
            ]
        };
        Self(providers.iter().map(below).collect())
    }

    /// The URLs of each provider.
    pub fn providers(&self) -> impl Iterator<Item = &[String]> {
        self.0.iter().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_design() {
        let providers = ["http://a/".to_owned(), "https://b/x.json?token=1".to_owned()];
        let candidates = Candidates::new(&providers, "stable", Arch::Aarch64);
        let urls: Vec<&str> = candidates.providers().flatten().map(String::as_str).collect();
        assert_eq!(
            urls,
            [
                "http://a/stable/arm64/manifest.signed.json",
                "http://a/stable/arm64/manifest.json",
                "http://a/manifest.json",
                "https://b/x.json?token=1",
            ]
        );
    }
}
