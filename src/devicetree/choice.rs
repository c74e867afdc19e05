//! Which of a manifest's device trees is this machine's: the one that was made for what the running
//! kernel's tree says this machine is.

use super::{Error, LARGEST};
use crate::error::printable;

/// What is fetched in search of the right one, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// The `compatible` of a tree's root: what the machine is, the most specific first. Empty for a
/// machine that ACPI describes: the tree that the kernel's UEFI stub makes there has none.
pub fn compatible(tree: &[u8]) -> Result<Vec<String>, Error> {
    super::root_strings(tree, "compatible")
}

/// The best of the `published` trees for the `machine`, whose [`compatible`] it is: the tree whose own
/// most specific entry stands first in the machine's list. A tree that only shares a later entry is
/// another machine's with the same chip. None if none of them is for it.
///
/// Each is known by its name and its size in bytes, and seen when it was fetched. The names only say
/// in which order: the first that is made for exactly this machine ends the search.
pub fn choose<'a, T, E>(
    machine: &[String],
    published: impl IntoIterator<Item = (&'a str, u64, T)>,
    mut fetch: impl FnMut(T) -> Result<Vec<u8>, E>,
) -> Result<Option<Vec<u8>>, E> {
    let mut candidates: Vec<_> = published.into_iter().collect();
    candidates.sort_by_key(|(name, ..)| hint(machine, name));
    let mut left = MOST_BYTES;
    let mut best: Option<(usize, &str, Vec<u8>)> = None;
    for (name, size, spec) in candidates {
        if size > LARGEST as u64 || size > left {
            log::warn!("device tree {name} is not looked at: {size} bytes, {left} are left of {MOST_BYTES}");
            continue;
        }
        left -= size;
        let tree = fetch(spec)?;
        let rank = match compatible(&tree) {
            Ok(list) => machine.iter().position(|entry| list.first() == Some(entry)),
            Err(error) => {
                log::warn!("{name}: {error}");
                None
            }
        };
        if let Some(rank) = rank
            && best.as_ref().is_none_or(|(least, ..)| rank < *least)
        {
            best = Some((rank, name, tree));
            if rank == 0 {
                break;
            }
        }
    }
    Ok(best.map(|(rank, name, tree)| {
        let made_for = machine.get(rank).map(|entry| printable(entry)).unwrap_or_default();
        log::info!("device tree {name}, made for {made_for}");
        tree
    }))
}

/// How late in the machine's list there is a board or chip that `name` speaks of:
/// `rockchip/rk3399-rockpro64.dtb` of `pine64,rockpro64`.
fn hint(machine: &[String], name: &str) -> usize {
    let board = |entry: &String| entry.rsplit(',').next().unwrap_or_default().to_owned();
    machine.iter().position(|entry| name.contains(&board(entry))).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_fdt::FdtWriter;

    fn tree(compatible: &[&str]) -> Vec<u8> {
        let mut writer = FdtWriter::new().unwrap();
        let root = writer.begin_node("").unwrap();
        if !compatible.is_empty() {
            let list = compatible.iter().map(|&name| name.to_owned()).collect();
            writer.property_string_list("compatible", list).unwrap();
        }
        let soc = writer.begin_node("soc").unwrap();
        writer.property_string("compatible", "simple-bus").unwrap();
        writer.end_node(soc).unwrap();
        writer.end_node(root).unwrap();
        writer.finish().unwrap()
    }

    fn machine(list: &[&str]) -> Vec<String> {
        compatible(&tree(list)).unwrap()
    }

    /// The names in the order in which they are fetched, and what is chosen.
    fn run(machine: &[String], trees: &[(&str, Vec<u8>)]) -> (Vec<String>, Option<Vec<u8>>) {
        let mut asked = Vec::new();
        let published = trees.iter().map(|(name, tree)| (*name, tree.len() as u64, (*name, tree)));
        let chosen = choose(machine, published, |(name, tree)| {
            asked.push(name.to_owned());
            Ok::<_, std::convert::Infallible>(tree.clone())
        });
        (asked, chosen.unwrap())
    }

    #[test]
    fn what_a_machine_is() {
        assert_eq!(
            machine(&["pine64,rockpro64", "rockchip,rk3399"]),
            ["pine64,rockpro64", "rockchip,rk3399"]
        );
        assert!(machine(&[]).is_empty());
        let virt = include_bytes!("testdata/qemu-virt-gicv3.dtb");
        assert_eq!(compatible(virt).unwrap(), ["linux,dummy-virt"]);
        assert!(compatible(b"<!DOCTYPE html>").is_err());
        // What the stub of a kernel leaves on a machine with ACPI.
        let stub = include_bytes!("testdata/qemu-virt-uefi.dtb");
        assert!(compatible(stub).unwrap().is_empty());
    }

    #[test]
    fn the_tree_made_for_exactly_this_machine_ends_the_search() {
        let machine = machine(&["pine64,rockpro64-v2.1", "pine64,rockpro64", "rockchip,rk3399"]);
        let exact = tree(&["pine64,rockpro64-v2.1", "rockchip,rk3399"]);
        let family = tree(&["pine64,rockpro64", "rockchip,rk3399"]);
        let other = tree(&["radxa,rockpi4", "rockchip,rk3399"]);
        let (asked, chosen) = run(
            &machine,
            &[
                ("a/rk3399-rock-pi-4.dtb", other.clone()),
                ("a/rk3399-rockpro64.dtb", family.clone()),
                ("a/rk3399-rockpro64-v2.1.dtb", exact.clone()),
            ],
        );
        assert_eq!(asked, ["a/rk3399-rockpro64-v2.1.dtb"]);
        assert_eq!(chosen, Some(exact.clone()));
        // The names say nothing, or lie.
        let (asked, chosen) =
            run(&machine, &[("1", other.clone()), ("2", family.clone()), ("3", exact.clone())]);
        assert_eq!(asked, ["1", "2", "3"]);
        assert_eq!(chosen, Some(exact));
        let (_, chosen) = run(&machine, &[("rockpro64-v2.1", other.clone()), ("2", family.clone())]);
        assert_eq!(chosen, Some(family));
        // Another board with the same chip.
        assert_eq!(run(&machine, &[("rk3399.dtb", other)]).1, None);
        assert_eq!(run(&machine, &[]).1, None);
    }

    #[test]
    fn what_is_broken_or_too_much_is_passed_over() {
        let machine = machine(&["a,b"]);
        let good = tree(&["a,b"]);
        let (_, chosen) = run(&machine, &[("1", b"no tree".to_vec()), ("2", tree(&[])), ("3", good.clone())]);
        assert_eq!(chosen, Some(good.clone()));
        assert_eq!(run(&machine, &[("1", vec![0; LARGEST + 1])]), (vec![], None));
        // Nine trees of 2 MiB are more than 16 MiB.
        let names: Vec<String> = (0..9).map(|number| number.to_string()).collect();
        let large: Vec<_> = names.iter().map(|name| (name.as_str(), vec![0; LARGEST])).collect();
        assert_eq!(run(&machine, &large).0.len(), 8);
        // One that cannot be fetched is no reason to boot with another.
        assert_eq!(choose(&machine, [("1", 4, ())], |()| Err("gone")), Err("gone"));
    }

    proptest! {
        #[test]
        fn the_order_of_publication_does_not_matter(
            ranks in prop::collection::vec(prop::option::of(0usize..4), 0..8),
            turn in any::<prop::sample::Index>(),
        ) {
            let names = ["v,m0", "v,m1", "v,m2", "v,m3"];
            let machine = machine(&names);
            let mut trees: Vec<_> =
                ranks.iter().map(|rank| ("x", tree(&[rank.map_or("w,other", |rank| names[rank])]))).collect();
            let best = ranks.iter().flatten().min().map(|&rank| tree(&[names[rank]]));
            prop_assert_eq!(run(&machine, &trees).1, best.clone());
            if !trees.is_empty() {
                let middle = turn.index(trees.len());
                trees.rotate_left(middle);
            }
            prop_assert_eq!(run(&machine, &trees).1, best);
        }
    }
}
