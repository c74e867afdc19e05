//! How servers have done so far. It orders the URLs of a file, and never leaves one out.
//!
//! It is kept in memory, and in `mirrors.json` for the next attempt, which is another process. Times
//! are seconds since the system started, because the clock may be anything.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use crate::provider::url;

const MOST_HOSTS: usize = 32;
const MOST_FILE_BYTES: u64 = 16 * 1024;
/// After this many seconds, faults count half.
const HALF_LIFE: u64 = 600;
/// A file with a wrong hash weighs as much as this many transfers that broke.
const CORRUPTION: u32 = 4;
const MOST_FAULTS: u32 = 1000;

/// The servers by `host:port`.
#[derive(Debug, Default)]
pub struct Mirrors(Mutex<BTreeMap<String, Health>>);

/// What is known of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    /// Transfers that broke, and wrong bytes, weighted.
    faults: u32,
    /// Bytes a second, of the last transfer that says something about it.
    rate: Option<u64>,
    /// Seconds since the system started.
    at: u64,
}

impl Health {
    fn faults_at(self, now: u64) -> u32 {
        let halvings = now.saturating_sub(self.at) / HALF_LIFE;
        u32::try_from(halvings).ok().and_then(|by| self.faults.checked_shr(by)).unwrap_or(0)
    }

    /// The better server has the smaller key: few faults, then a rate of another order. Who is not
    /// known is given a chance.
    fn key(self, now: u64) -> (u32, u32) {
        let slowness = self.rate.map_or(0, |rate| rate.max(1).leading_zeros() / 2);
        (self.faults_at(now), slowness)
    }
}

impl Mirrors {
    /// What the last attempt left. A file that cannot be read or makes no sense is none.
    pub(super) fn read(paths: &Paths) -> Self {
        let mut text = Vec::new();
        let read = std::fs::File::open(paths.mirrors())
            .and_then(|file| file.take(MOST_FILE_BYTES).read_to_end(&mut text));
        let mut hosts: BTreeMap<String, Health> =
            read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default();
        bound(&mut hosts);
        Self(Mutex::new(hosts))
    }

    /// Leaves it for the next attempt. It is a convenience: failure is not told.
    pub fn write(&self, paths: &Paths) {
        let Ok(text) = serde_json::to_vec(&*self.lock()) else { return };
        let path = paths.mirrors();
        let temporary = path.with_extension(format!("json.{}", std::process::id()));
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let _ = folder
            .and_then(|()| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &path));
    }

    /// The places in `urls`, the healthiest first; those that are alike stay in their order. Without
    /// `rates`, faults alone count: of those that have none, the fastest is not always preferred.
    pub fn order(&self, urls: &[String], rates: bool) -> Vec<usize> {
        let (hosts, now) = (self.lock(), now());
        let key = |url: &String| {
            let (faults, slowness) = hosts.get(url::host(url)).copied().unwrap_or_default().key(now);
            (faults, if rates { slowness } else { 0 })
        };
        let mut order: Vec<(usize, _)> = urls.iter().map(key).enumerate().collect();
        order.sort_by_key(|&(_, key)| key);
        order.into_iter().map(|(index, _)| index).collect()
    }

    /// A transfer from `url` broke, or did not begin.
    pub fn failed(&self, url: &str) {
        self.change(url, |health| health.faults = health.faults.saturating_add(1));
    }

    /// What came from `url` was not what was signed.
    pub fn corrupted(&self, url: &str) {
        self.change(url, |health| health.faults = health.faults.saturating_add(CORRUPTION));
    }

    /// `url` brought so many bytes a second.
    pub fn delivered(&self, url: &str, rate: u64) {
        self.change(url, |health| health.rate = Some(rate));
    }

    fn change(&self, url: &str, change: impl FnOnce(&mut Health)) {
        let (mut hosts, now) = (self.lock(), now());
        let health = hosts.entry(url::host(url).to_owned()).or_default();
        *health = Health { faults: health.faults_at(now).min(MOST_FAULTS), at: now, ..*health };
        change(health);
        bound(&mut hosts);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Health>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The oldest make way.
fn bound(hosts: &mut BTreeMap<String, Health>) {
    while hosts.len() > MOST_HOSTS {
        let Some(oldest) = hosts.iter().min_by_key(|(_, health)| health.at) else { return };
        let oldest = oldest.0.clone();
        hosts.remove(&oldest);
    }
}

/// Seconds since the system started: CLOCK_BOOTTIME of clock_gettime(2).
fn now() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(hosts: &[&str]) -> Vec<String> {
        hosts.iter().map(|host| format!("http://{host}/kernel")).collect()
    }

    #[test]
    fn faults_and_rates_order_and_nothing_is_left_out() {
        let urls = urls(&["a", "b", "c", "d"]);
        let mirrors = Mirrors::default();
        assert_eq!(mirrors.order(&urls, true), [0, 1, 2, 3]);
        mirrors.corrupted(&urls[0]);
        mirrors.failed(&urls[1]);
        mirrors.delivered(&urls[2], 10_000);
        assert_eq!(mirrors.order(&urls, true), [3, 2, 1, 0]);
        assert_eq!(mirrors.order(&urls, false), [2, 3, 1, 0]);
        mirrors.delivered(&urls[3], 11_000);
        assert_eq!(mirrors.order(&urls, true)[..2], [2, 3], "no rate of another order");
        mirrors.delivered(&urls[3], 100_000_000);
        assert_eq!(mirrors.order(&urls, true), [3, 2, 1, 0]);
    }

    #[test]
    fn faults_are_forgotten() {
        let health = Health { faults: 4, rate: None, at: 1000 };
        let faults: Vec<u32> =
            [1000, 1599, 1600, 2200, 2800, u64::MAX].map(|now| health.faults_at(now)).into();
        assert_eq!(faults, [4, 4, 2, 1, 0, 0]);
        assert_eq!(health.faults_at(0), 4, "a clock that went back");
    }

    #[test]
    fn the_next_attempt_knows() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::under(folder.path());
        let mirrors = Mirrors::read(&paths);
        let urls = urls(&["a", "b"]);
        mirrors.failed(&urls[0]);
        mirrors.write(&paths);
        assert_eq!(Mirrors::read(&paths).order(&urls, true), [1, 0]);
        for wrong in
            ["", "[]", "{\"a\":{\"faults\":-1}}", "{\"b\":{\"faults\":1,\"rate\":null,\"at\":0,\"x\":0}}"]
        {
            std::fs::write(paths.mirrors(), wrong).unwrap();
            assert_eq!(Mirrors::read(&paths).order(&urls, true), [0, 1], "{wrong}");
        }
    }

    #[test]
    fn it_is_bounded() {
        let mirrors = Mirrors::default();
        for host in 0..1000 {
            mirrors.failed(&format!("http://{host}.example/"));
        }
        assert_eq!(mirrors.lock().len(), MOST_HOSTS);
    }
}
