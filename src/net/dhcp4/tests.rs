mod asking;
mod keeping;
mod tables;
mod world;

use dhcproto::v4::{Decodable, DhcpOption, Message, MessageType, OptionCode};
use proptest::prelude::*;

use super::answer::WINDOW;
use super::message::{BLANK, LEAST_LENGTH};
use super::*;
use crate::net::identity;
use crate::net::lease::Route;

pub(in crate::net) const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
pub(in crate::net) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(in crate::net) const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

pub(in crate::net) const OFFER: (u8, &[u8]) = (53, &[2]);
pub(in crate::net) const ACK: (u8, &[u8]) = (53, &[5]);
pub(in crate::net) const NAK: (u8, &[u8]) = (53, &[6]);
pub(in crate::net) const SERVER_ID: (u8, &[u8]) = (54, &[10, 0, 2, 2]);
pub(in crate::net) const MASK: (u8, &[u8]) = (1, &[255, 255, 255, 0]);
pub(in crate::net) const ROUTER: (u8, &[u8]) = (3, &[10, 0, 2, 2]);
pub(in crate::net) const URL: (u8, &[u8]) = (67, b"http://10.0.2.2/boot");

/// A server's message: header, then options as (code, value), then 255.
pub(in crate::net) fn reply(xid: u32, address: Ipv4Addr, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut packet = BLANK.to_vec();
    packet[0] = 2;
    packet[4..8].copy_from_slice(&xid.to_be_bytes());
    packet[16..20].copy_from_slice(&address.octets());
    packet[28..34].copy_from_slice(&MAC);
    for (code, value) in options {
        packet.extend([*code, u8::try_from(value.len()).unwrap()]);
        packet.extend_from_slice(value);
    }
    packet.push(255);
    packet
}

fn device() -> Device {
    Device {
        name: "eth0".into(),
        mac: MAC,
        largest_mtu: 1500,
        broadcast: false,
        client_id: identity::client_id_from_mac(MAC),
        uuid: None,
        arch: Arch::X86_64,
        hostname: None,
    }
}

fn client(now: Instant) -> Client {
    Client::new(device(), Wishes::default(), 1, now)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn sent(packet: &[u8]) -> Message {
    assert!(packet.len() >= LEAST_LENGTH);
    Message::from_bytes(packet).unwrap()
}

/// What is due.
fn outgoing(client: &mut Client, now: Instant) -> Outgoing {
    match client.tick(now) {
        Reaction::Send(message) => message,
        other => panic!("{other:?}"),
    }
}

/// The broadcast that is due.
fn ticked(client: &mut Client, now: Instant) -> Vec<u8> {
    let message = outgoing(client, now);
    assert_eq!(message.to, None);
    message.payload
}

fn silent(client: &mut Client, now: Instant) -> bool {
    matches!(client.tick(now), Reaction::Nothing)
}

fn server(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, n)
}

/// The client hears an OFFER or ACK of [`OURS`] from a server.
fn hear(
    client: &mut Client,
    now: Instant,
    kind: (u8, &'static [u8]),
    n: u8,
    options: &[(u8, &[u8])],
) -> Reaction {
    let id = server(n).octets();
    let options: Vec<(u8, &[u8])> = [kind, (54, &id)].iter().chain(options).copied().collect();
    let packet = reply(client.xid, OURS, &options);
    client.receive(now, server(n), &packet)
}

fn offer(client: &mut Client, now: Instant, n: u8, options: &[(u8, &[u8])]) -> Reaction {
    hear(client, now, OFFER, n, options)
}

fn ack(client: &mut Client, now: Instant, n: u8, options: &[(u8, &[u8])]) -> Reaction {
    hear(client, now, ACK, n, options)
}

/// The server that a request is for.
fn asked_of(packet: &[u8]) -> Option<Ipv4Addr> {
    let message = sent(packet);
    assert_eq!(message.opts().msg_type(), Some(MessageType::Request));
    match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
        _ => None,
    }
}

/// Has the client discover and take an offer; its request is returned.
fn requesting(client: &mut Client, now: Instant) -> Message {
    ticked(client, now);
    let offer = reply(client.xid, OURS, &[OFFER, SERVER_ID, MASK]);
    let Reaction::Send(request) = client.receive(now, SERVER, &offer) else { panic!("no request") };
    sent(&request.payload)
}
