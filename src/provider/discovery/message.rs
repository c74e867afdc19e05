//! DNS messages, as far as services are announced in them: RFC 1035, section 4; SRV RFC 2782, AAAA
//! RFC 3596. Pure. What cannot be read ends the message: the records before it count.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of a name on the wire: RFC 1035, section 2.3.4.
const MOST_NAME: usize = 255;
/// A label's length has 6 bits; the upper two mark a pointer: RFC 1035, section 4.1.4.
const MOST_LABEL: u8 = 63;
const POINTER: u8 = 0xc0;
const HEADER: usize = 12;
/// Records of one message.
const MOST_RECORDS: usize = 128;
/// Strings of one TXT record.
const MOST_STRINGS: usize = 32;
/// Class IN, and what multicast DNS adds to it: in a question a unicast answer is welcome, in an answer
/// older records are void (RFC 6762, sections 5.4 and 10.2).
const IN: u16 = 1;
const FLAG: u16 = 0x8000;
/// The header's second word: RFC 1035, section 4.1.1. QR alone of these says that it is a response, to a usual query,
/// and that nothing is wrong.
const QR_OPCODE_RCODE: u16 = 0xf80f;
const GOOD_RESPONSE: u16 = 0x8000;
/// QR of the header's third byte, RD of its second word, and RCODE in its fourth byte.
const RESPONSE: u8 = 0x80;
/// TC, in the same byte as QR.
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u16 = 0x0100;
const CODE: u8 = 0x0f;
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A = 1,
    Ptr = 12,
    Txt = 16,
    Aaaa = 28,
    Srv = 33,
}

/// A domain name. Two that differ in case are the same.
#[derive(Clone, Eq)]
pub(super) struct Name(Vec<Vec<u8>>);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) data: Data,
    pub(super) standing: Standing,
}

/// What a record says of others of its name and type that were heard before, in multicast DNS alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// They hold as well.
    Beside,
    /// It takes their place: RFC 6762, section 10.2.
    Instead,
    /// It holds no more, with a TTL of 0: RFC 6762, section 10.1.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Ptr(Name),
    Srv(Srv),
    Txt(Vec<Vec<u8>>),
}

/// RFC 2782
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Srv {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: Name,
}

impl Name {
    /// The name that `text` writes with dots, which may end in one. None if it can be none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let labels: Vec<Vec<u8>> = text
            .strip_suffix('.')
            .unwrap_or(text)
            .split('.')
            .map(|label| label.as_bytes().to_vec())
            .collect();
        let fits = |label: &Vec<u8>| (1..=usize::from(MOST_LABEL)).contains(&label.len());
        let length: usize = labels.iter().map(|label| label.len() + 1).sum();
        (labels.iter().all(fits) && length < MOST_NAME).then_some(Self(labels))
    }

    /// As a host name in a URL. None if it is none that a server can have.
    pub(super) fn as_host(&self) -> Option<String> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (!self.0.is_empty() && self.0.iter().flatten().all(plain)).then(|| self.to_string())
    }

    #[cfg(test)]
    pub(super) fn root() -> Self {
        Self(Vec::new())
    }

    fn write(&self, message: &mut Vec<u8>) {
        for label in &self.0 {
            message.push(u8::try_from(label.len()).unwrap_or(MOST_LABEL));
            message.extend_from_slice(label);
        }
        message.push(0);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| a.eq_ignore_ascii_case(b))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<_> = self.0.iter().map(|label| String::from_utf8_lossy(label)).collect();
        f.write_str(&labels.join("."))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A server, which asks others for us.
    Server,
    /// Everybody on the link, who may answer to us alone.
    Everybody,
}

/// A query with these questions.
pub(super) fn query(id: u16, questions: &[(&Name, Kind)], asked: Asked) -> Vec<u8> {
    let mut message = Vec::with_capacity(512);
    let count = u16::try_from(questions.len()).unwrap_or(u16::MAX);
    let (flags, class) = match asked {
        Asked::Server => (RECURSION_DESIRED, IN),
        Asked::Everybody => (0, IN | FLAG),
    };
    for word in [id, flags, count, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    for (name, kind) in questions {
        name.write(&mut message);
        message.extend_from_slice(&(*kind as u16).to_be_bytes());
        message.extend_from_slice(&class.to_be_bytes());
    }
    message
}

/// What a message is to somebody who has asked one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There are such records, or a server says that there are none.
    Settled,
    /// There is more than fits into a datagram: RFC 7766, section 5.
    Truncated,
    /// A server will not or cannot say, with this RCODE.
    Refused(u8),
    /// No answer to it.
    Foreign,
}

pub(super) fn verdict(message: &[u8], id: u16, question: (&Name, Kind)) -> Verdict {
    let asked = || {
        let (asked, end) = name(message, HEADER)?;
        Some(asked == *question.0 && word(message, end)? == question.1 as u16)
    };
    let flags = message.get(2).copied().unwrap_or(0);
    let answers = word(message, 0) == Some(id)
        && flags & RESPONSE != 0
        && word(message, 4) == Some(1)
        && asked() == Some(true);
    match message.get(3).map(|flags| flags & CODE) {
        Some(NO_ERROR | NO_SUCH_NAME) if answers && flags & TRUNCATED != 0 => Verdict::Truncated,
        Some(NO_ERROR | NO_SUCH_NAME) if answers => Verdict::Settled,
        Some(code) if answers => Verdict::Refused(code),
        _ => Verdict::Foreign,
    }
}

/// The records of a response, those in its additional section too. Empty if it is none, or one to something else
/// than a query, or says that something is wrong: RFC 6762, sections 18.3 and 18.11.
pub(super) fn records(message: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    // What is broken leaves what was read before it.
    let _ = read(message, &mut records);
    records
}

fn read(message: &[u8], records: &mut Vec<Record>) -> Option<()> {
    if word(message, 2)? & QR_OPCODE_RCODE != GOOD_RESPONSE {
        return None;
    }
    let count = |at| word(message, at).map(usize::from);
    let questions = count(4)?;
    let total = count(6)? + count(8)? + count(10)?;
    let mut at = HEADER;
    for _ in 0..questions.min(MOST_RECORDS) {
        at = name(message, at)?.1 + 4;
    }
    for _ in 0..total.min(MOST_RECORDS) {
        let (owner, fields) = name(message, at)?;
        let (kind, class) = (word(message, fields)?, word(message, fields + 2)?);
        let start = fields + 10;
        let end = start + usize::from(word(message, fields + 8)?);
        let bytes = message.get(start..end)?;
        if class & !FLAG == IN
            && let Some(data) = data(kind, message, start, bytes)
        {
            let standing = match message.get(fields + 4..fields + 8)? {
                [0, 0, 0, 0] => Standing::Gone,
                _ if class & FLAG != 0 => Standing::Instead,
                _ => Standing::Beside,
            };
            records.push(Record { name: owner, data, standing });
        }
        at = end;
    }
    Some(())
}

/// The data of one record, `bytes` of the message from `start`. None if it is of no use here.
fn data(kind: u16, message: &[u8], start: usize, bytes: &[u8]) -> Option<Data> {
    let whole_name = |at: usize| name(message, at).filter(|(_, end)| *end == start + bytes.len());
    Some(match kind {
        kind if kind == Kind::A as u16 => Data::A(<[u8; 4]>::try_from(bytes).ok()?.into()),
        kind if kind == Kind::Aaaa as u16 => Data::Aaaa(<[u8; 16]>::try_from(bytes).ok()?.into()),
        kind if kind == Kind::Ptr as u16 => Data::Ptr(whole_name(start)?.0),
        kind if kind == Kind::Srv as u16 => Data::Srv(Srv {
            priority: word(bytes, 0)?,
            weight: word(bytes, 2)?,
            port: word(bytes, 4)?,
            target: whole_name(start + 6)?.0,
        }),
        kind if kind == Kind::Txt as u16 => Data::Txt(strings(bytes)?),
        _ => return None,
    })
}

/// RFC 1035, section 3.3.14
fn strings(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let (string, rest) = rest.split_at_checked(usize::from(length))?;
        if strings.len() < MOST_STRINGS {
            strings.push(string.to_vec());
        }
        bytes = rest;
    }
    Some(strings)
}

/// A name that may be compressed, and where what follows it begins.
fn name(message: &[u8], start: usize) -> Option<(Name, usize)> {
    let (mut labels, mut length) = (Vec::new(), 1);
    let (mut at, mut end) = (start, None);
    // Pointers lead to an earlier place than the part of the name that ends in them.
    let mut part = start;
    loop {
        let first = *message.get(at)?;
        match first {
            0 => return Some((Name(labels), end.unwrap_or(at + 1))),
            1..=MOST_LABEL => {
                length += 1 + usize::from(first);
                if length > MOST_NAME {
                    return None;
                }
                let next = at + 1 + usize::from(first);
                labels.push(message.get(at + 1..next)?.to_vec());
                at = next;
            }
            _ if first & POINTER == POINTER => {
                let to = usize::from(word(message, at)? & !(u16::from(POINTER) << 8));
                if to >= part {
                    return None;
                }
                end.get_or_insert(at + 2);
                (part, at) = (to, to);
            }
            _ => return None,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    /// A response with these records, each of which is given after its name.
    fn response(records: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![0, 7, 0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        message[7] = u8::try_from(records.len()).unwrap();
        records.iter().for_each(|record| message.extend_from_slice(record));
        message
    }

    /// What avahi-daemon sends: RFC 1035 compression, the cache-flush bit, all that is needed.
    fn announcement() -> Vec<u8> {
        let service = b"\x0c_phase-image\x04_tcp\x05local\x00";
        let pointer = [service, &b"\x00\x0c\x00\x01\x00\x00\x00\x0a\x00\x07\x04a. b\xc0\x0c"[..]].concat();
        let text = b"\xc0\x2f\x00\x10\x80\x01\x00\x00\x00\x0a\x00\x0f\x0echannel=stable";
        let server = b"\xc0\x2f\x00\x21\x80\x01\x00\x00\x00\x0a\x00\x0a\x00\x01\x00\x02\x1f\x90\x01h\xc0\x1e";
        let address = b"\x01H\x05LOCAL\x00\x00\x01\x80\x01\x00\x00\x00\x0a\x00\x04\x0a\x00\x02\x02";
        response(&[&pointer, text, server, address])
    }

    #[test]
    fn an_announcement_is_read() {
        let records = records(&announcement());
        let Data::Ptr(instance) = &records[0].data else { panic!("{records:?}") };
        assert_eq!(records[0].name, named("_PHASE-image._tcp.local."));
        assert_eq!(instance.to_string(), "a. b._phase-image._tcp.local");
        assert_eq!((&records[1].name, &records[2].name), (instance, instance));
        assert_eq!(records[1].data, Data::Txt(vec![b"channel=stable".to_vec()]));
        let target = named("h.local");
        let server = Srv { priority: 1, weight: 2, port: 8080, target: target.clone() };
        assert_eq!(records[2].data, Data::Srv(server));
        let (data, standing) = (Data::A(Ipv4Addr::new(10, 0, 2, 2)), Standing::Instead);
        assert_eq!(records[3], Record { name: target, data, standing });
        assert_eq!((records[0].standing, records[1].standing), (Standing::Beside, Standing::Instead));
        assert_eq!(instance.as_host(), None);
        assert_eq!(named("boot-1.example.org").as_host().as_deref(), Some("boot-1.example.org"));
    }

    #[test]
    fn only_good_responses_to_queries_have_records() {
        let with = |at: usize, bits: u8| {
            let mut message = announcement();
            message[at] ^= bits;
            records(&message).len()
        };
        // AA, TC and RD; RA and Z: they mean nothing.
        assert_eq!((with(2, 0x07), with(3, 0xf0)), (4, 4));
        assert_eq!((with(2, 0x80), with(2, 0x28), with(2, 0x40)), (0, 0, 0), "a query, an update");
        assert_eq!((with(3, 3), with(3, 5)), (0, 0), "an error");
    }

    #[test]
    fn a_ttl_of_zero_says_that_a_record_holds_no_more() {
        let record = |class: u8, ttl: u8| {
            let record = [&b"\x01h\0\0\x01"[..], &[class, 1], &[0, 0, 0, ttl], &[0, 4, 10, 0, 2, 2]].concat();
            records(&response(&[&record]))[0].standing
        };
        assert_eq!((record(0, 1), record(0x80, 1)), (Standing::Beside, Standing::Instead));
        assert_eq!((record(0, 0), record(0x80, 0)), (Standing::Gone, Standing::Gone));
    }

    #[test]
    fn a_query_is_no_response_and_reads_back() {
        let name = named("_phase-image._tcp.example.org");
        let message = query(7, &[(&name, Kind::Srv), (&name, Kind::Txt)], Asked::Everybody);
        assert_eq!(records(&message), []);
        assert_eq!(super::name(&message, HEADER).unwrap(), (name, HEADER + 31));
        assert_eq!(message[message.len() - 4..], [0, 16, 0x80, 1]);
    }

    #[test]
    fn only_the_answer_to_a_question_settles_it() {
        use Verdict::{Foreign, Refused, Settled, Truncated};
        let (asked, other) = (named("_phase-image._tcp.lab"), named("_phase-image._tcp.lob"));
        let mut message = query(7, &[(&asked, Kind::Srv)], Asked::Server);
        assert_eq!(verdict(&message, 7, (&asked, Kind::Srv)), Foreign, "the question itself");
        message[2] |= RESPONSE;
        for (code, expected) in
            [(0, Settled), (3, Settled), (1, Refused(1)), (2, Refused(2)), (5, Refused(5))]
        {
            message[3] = 0x80 | code;
            assert_eq!(verdict(&message, 7, (&asked, Kind::Srv)), expected, "{code}");
            assert_eq!(verdict(&message, 8, (&asked, Kind::Srv)), Foreign);
            assert_eq!(verdict(&message, 7, (&other, Kind::Srv)), Foreign);
        }
        message[3] = 0;
        for cut in [false, true] {
            message[2] |= u8::from(cut) * TRUNCATED;
            let expected = if cut { Truncated } else { Settled };
            assert_eq!(verdict(&message, 7, (&asked, Kind::Srv)), expected);
            assert_eq!(verdict(&message, 8, (&asked, Kind::Srv)), Foreign);
            assert_eq!(verdict(&message, 7, (&asked, Kind::Txt)), Foreign);
            assert_eq!(verdict(&message, 7, (&other, Kind::Srv)), Foreign);
            assert_eq!(verdict(&message[..20], 7, (&asked, Kind::Srv)), Foreign);
        }
        assert_eq!(verdict(&[], 0, (&asked, Kind::Srv)), Foreign);
    }

    /// What only comes over TCP: up to 65 535 bytes.
    #[test]
    fn long_messages_are_read_and_what_they_hold_is_bounded() {
        let asked = named("_phase-image._tcp.lab");
        let mut message = query(7, &[(&asked, Kind::Txt)], Asked::Server);
        message[2] |= RESPONSE;
        let record =
            [&b"\xc0\x0c\0\x10\0\x01\0\0\0\0\x01\xf4\xfa"[..], &[b'a'; 250], b"\xf8", &[b'b'; 248]].concat();
        let count = (65_535 - message.len()) / record.len();
        message.extend(record.repeat(count));
        message[6..8].copy_from_slice(&u16::try_from(count).unwrap().to_be_bytes());
        assert_eq!(verdict(&message, 7, (&asked, Kind::Txt)), Verdict::Settled);
        let all = records(&message);
        assert_eq!((count > 126, all.len()), (true, count.min(MOST_RECORDS)));
        let Data::Txt(strings) = &all[all.len() - 1].data else { panic!() };
        assert_eq!((strings[0].len(), strings[1].len()), (250, 248));
        // More than there are.
        message[6..8].fill(0xff);
        assert_eq!(records(&message).len(), count.min(MOST_RECORDS));
    }

    #[test]
    fn names_that_are_none() {
        for text in ["", ".", "a..b", &"a".repeat(64), &"abcdefg.".repeat(33)] {
            assert!(Name::parse(text).is_none(), "{text}");
        }
        // Pointers that lead to themselves, forward, or round.
        for bytes in [&b"\xc0\x0c"[..], b"\x01a\xc0\x0c", b"\xc0\x0e\x00", b"\x80\x01", b"\x05ab", b"\x01a"] {
            assert_eq!(name(&[&[0; HEADER], bytes].concat(), HEADER), None, "{bytes:?}");
        }
        let endless = [&[0u8; HEADER][..], &b"\x3f".repeat(64 * 8)].concat();
        assert_eq!(name(&endless, HEADER), None);
    }

    #[test]
    fn what_is_cut_off_leaves_the_records_before_it() {
        let whole = announcement();
        let counts: Vec<usize> = (0..=whole.len()).map(|length| records(&whole[..length]).len()).collect();
        assert!(counts.is_sorted());
        assert_eq!((counts[0], counts[whole.len() - 1], counts[whole.len()]), (0, 3, 4));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_loop(mut bytes in prop::collection::vec(any::<u8>(), 12..400), few in any::<bool>()) {
            bytes[2] |= RESPONSE;
            if few {
                // Small numbers are lengths and pointers that lead somewhere.
                for byte in &mut bytes[HEADER..] {
                    *byte = if *byte > 200 { 0xc0 } else { *byte % 40 };
                }
            }
            prop_assert!(records(&bytes).len() <= MOST_RECORDS);
        }

        #[test]
        fn no_changed_announcement_panics(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut bytes = announcement();
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = records(&bytes);
        }

        #[test]
        fn names_are_bounded(text in "([a-zA-Z0-9_-]{1,63}\\.){1,6}") {
            if let Some(name) = Name::parse(&text) {
                let message = query(0, &[(&name, Kind::A)], Asked::Server);
                prop_assert!(message.len() <= HEADER + MOST_NAME + 4);
                prop_assert_eq!(super::name(&message, HEADER).unwrap().0, name);
            }
        }
    }
}
