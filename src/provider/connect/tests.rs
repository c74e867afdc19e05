use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::dial::begin;
use super::*;
use crate::net::Uplink;
use crate::paths::Paths;

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn families_take_turns() {
    let given =
        addresses(&["[2001:db8::1]:80", "[2001:db8::2]:80", "192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"]);
    let order: Vec<String> = interleaved(given).iter().map(ToString::to_string).collect();
    assert_eq!(
        order,
        ["[2001:db8::1]:80", "192.0.2.1:80", "[2001:db8::2]:80", "192.0.2.2:80", "192.0.2.3:80"]
    );
    assert!(interleaved(vec![]).is_empty());
}

/// A listener whose queue is full takes no further connection: addresses without an answer.
fn deaf() -> (TcpListener, Vec<OwnedFd>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let fill = (0..4).map(|_| begin(address, None).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(50));
    (listener, fill, address)
}

/// A port that is given to nobody else while the socket is kept, which does not listen.
fn refusing() -> (OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

#[test]
fn an_address_without_an_answer_costs_a_moment() {
    let (_deaf, _fill, dead) = deaf();
    let alive = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_socket, refused) = refusing();
    let started = Instant::now();
    let stream = dial(&[refused, dead, alive.local_addr().unwrap()], None, Duration::from_secs(10)).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), alive.local_addr().unwrap());
    assert!(stream.nodelay().unwrap());
    assert!((200..2000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[test]
fn every_address_that_failed_is_named() {
    let (_deaf, _fill, dead) = deaf();
    let (_socket, refused) = refusing();
    let started = Instant::now();
    let error = dial(&[dead, refused], None, Duration::from_millis(600)).unwrap_err().to_string();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(error, format!("no connection to {refused}: connection refused, {dead}: no answer"));
}

#[test]
fn loopback_is_never_bound_to_a_device() {
    let alive = TcpListener::bind("127.0.0.1:0").unwrap();
    dial(&[alive.local_addr().unwrap()], Some("no-such-device"), Duration::from_secs(5)).unwrap();
    let elsewhere = addresses(&["192.0.2.1:9"]);
    let error = dial(&elsewhere, Some("no-such-device"), Duration::from_secs(5)).unwrap_err();
    assert!(error.to_string().contains("no such device"), "{error}");
}

#[test]
fn a_name_that_is_not_found_names_the_servers() {
    let dns = vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()];
    let uplink = Some(Arc::new(Uplink { dns, ..Uplink::default() }));
    let access = Access { uplink, proxy: None, paths: Paths::under("/proc/nowhere") };
    let error = Way::new(&access).look_up("no such name", 80, Duration::from_secs(5)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("the name no such name ")
            && text.ends_with("servers for names: 192.0.2.53, 2001:db8::53"),
        "{text}"
    );
    let way = Way::new(&Access::default());
    let v6 = way.look_up("[::1]", 8080, Duration::ZERO).unwrap();
    assert_eq!(v6, addresses(&["[::1]:8080"]));
}

#[test]
fn a_lookup_that_hangs_is_left_behind() {
    let uplink = Arc::new(Uplink::default());
    let access = Access { uplink: Some(Arc::clone(&uplink)), ..Access::default() };
    let _turn = names::for_uplink(&access.paths, &uplink);
    let way = Way::new(&access);
    for (limit, words) in [(50, "in the time that was left; "), (1050, "within 1 s; ")] {
        let error = way.look_up("boot.example", 80, Duration::from_millis(limit)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains(&format!("boot.example was not resolved {words}")), "{error}");
    }
}

#[test]
fn requests_to_a_proxy_have_the_whole_url() {
    let proxy = Proxy::new("http://us%65r:pass@127.0.0.1:3128").unwrap();
    let uri: Uri = "http://me@boot.example:8080/a?b".parse().unwrap();
    let absolute = Absolute::new(&uri, &proxy);
    let sent = absolute.apply(b"GET /a?b HTTP/1.1\r\nHost: boot.example\r\n\r\n").unwrap();
    assert_eq!(
        String::from_utf8(sent).unwrap(),
        "GET http://boot.example:8080/a?b HTTP/1.1\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\
         Host: boot.example\r\n\r\n"
    );
    assert_eq!(absolute.apply(b"more"), None);
    for url in ["https://127.0.0.1:3128", "socks5://127.0.0.1", "127.0.0.1:3128"] {
        let access = Access { proxy: Some(url.to_owned()), ..Access::default() };
        assert!(!Way::new(&access).is_usable(), "{url}");
    }
}

#[test]
fn a_family_that_the_uplink_lacks_is_left_out() {
    let both = addresses(&["[2001:db8::1]:80", "192.0.2.1:80"]);
    let way = |ipv6| {
        let ipv6 = Some(crate::net::Ipv6::default()).filter(|_| ipv6);
        let uplink = Some(Arc::new(Uplink { ipv6, ..Uplink::default() }));
        Way::new(&Access { uplink, ..Access::default() })
    };
    assert_eq!(way(true).reachable(both.clone()), both[..1]);
    assert_eq!(way(false).reachable(both.clone()), both);
}
