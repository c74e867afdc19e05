use super::frame::{self, Mac};
use super::*;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

const A: Mac = [2, 0, 0, 0, 0, 1];
const B: Mac = [2, 0, 0, 0, 0, 2];
/// For what must come.
const LONG: Duration = Duration::from_secs(10);
/// For what must not come.
const SHORT: Duration = Duration::from_millis(200);

/// A switch with these ports, and the other ends of its sockets, as QEMU has them.
struct Bench {
    cards: Vec<UnixStream>,
    folder: PathBuf,
    _switch: Switch,
}

impl Bench {
    fn new(name: &str, ports: &[Port]) -> Self {
        let name = format!("phaseboot-lab-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut cards = Vec::new();
        let mut ends = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let path = socket(&name, index);
            ends.push((*port, End::Machine { listener: listen(&path).unwrap(), link: None }));
            let address = SocketAddr::from_abstract_name(&path).unwrap();
            let card = UnixStream::connect_addr(&address).unwrap();
            cards.push(card);
        }
        let file = Arc::new(Mutex::new(File::create(folder.join(JOURNAL)).unwrap()));
        let journal = Journal { started: Instant::now(), file };
        let switch = Switch::start(ends, Pcap::create(&folder.join(FRAMES)).unwrap(), journal).unwrap();
        Self { cards, folder, _switch: switch }
    }

    fn send(&mut self, card: usize, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
        self.cards[card].write_all(&[&length, frame].concat()).unwrap();
    }

    /// The next frame.
    fn receive(&mut self, card: usize) -> Vec<u8> {
        self.cards[card].set_read_timeout(Some(LONG)).unwrap();
        let mut length = [0; 4];
        self.cards[card].read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        self.cards[card].read_exact(&mut frame).unwrap();
        frame
    }

    /// No frame comes.
    fn receive_nothing(&mut self, card: usize) {
        self.cards[card].set_read_timeout(Some(SHORT)).unwrap();
        let nothing = self.cards[card].read(&mut [0; 4]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(std::io::ErrorKind::WouldBlock));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn frames_stay_in_their_vlan_and_are_tagged_on_trunks() {
    let access = |vlan| Port { tagging: Tagging::Access(vlan), ..Port::USUAL };
    let trunk = Port { tagging: Tagging::Trunk(&[7, 100]), ..Port::USUAL };
    let mut bench = Bench::new("vlans", &[access(100), trunk, access(7), access(100)]);
    let everybody = frame::frame(frame::BROADCAST, A, frame::ARP, b"hello");
    bench.send(0, &everybody);
    assert_eq!(bench.receive(1), frame::tagged(&everybody, 100));
    assert_eq!(bench.receive(3), everybody);
    bench.receive_nothing(2);
    // The answer goes to nobody else.
    let answer = frame::frame(A, B, frame::ARP, b"answer");
    bench.send(1, &frame::tagged(&answer, 100));
    assert_eq!(bench.receive(0), answer);
    bench.receive_nothing(3);
    // Neither untagged frames nor other VLANs are for a trunk.
    bench.send(1, &answer);
    bench.send(1, &frame::tagged(&answer, 8));
    bench.receive_nothing(0);
}

#[test]
fn a_blocked_port_hears_only_the_bridge() {
    let tree = SpanningTree { protocol: Protocol::Rstp, blocks: 1 };
    let mut bench = Bench::new("tree", &[Port { spanning_tree: Some(tree), ..Port::USUAL }, Port::USUAL]);
    let hello = frame::frame(frame::BROADCAST, A, frame::ARP, b"hello");
    bench.send(0, &hello);
    let bpdu = bench.receive(0);
    assert_eq!(frame::payload(&bpdu)[7] & 0x20, 0);
    bench.receive_nothing(1);
    let bpdu = bench.receive(0);
    assert_eq!(frame::payload(&bpdu)[7] & 0x20, 0x20);
    bench.send(0, &hello);
    assert_eq!(bench.receive(1), hello);
}

#[test]
fn members_of_an_aggregate_pass_nothing_before_it_is_agreed_on() {
    let member = Port { aggregated: true, ..Port::USUAL };
    let mut bench = Bench::new("aggregate", &[member, member, Port::USUAL]);
    let hello = frame::frame(frame::BROADCAST, A, frame::ARP, b"hello");
    bench.send(0, &hello);
    bench.receive_nothing(2);
    bench.send(2, &hello);
    bench.receive_nothing(0);
}
