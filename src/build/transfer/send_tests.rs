// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of the order in which items are sent.

use super::*;
use crate::ground::store_path::StoreDir;

/// Returns the item with this number, which refers to those with the numbers in `references`.
fn item(number: usize, references: &[usize]) -> ValidPath {
    let path = |number: usize| {
        let store = StoreDir::new("/gnu/store").unwrap();
        store.parse(&format!("/gnu/store/{number:032}-item")).unwrap()
    };
    ValidPath {
        path: path(number),
        nar_hash: [0; 32],
        nar_size: 1,
        deriver: None,
        references: references.iter().map(|number| path(*number)).collect(),
    }
}

/// Orders `items`, and checks that each is there once, after those that it refers to.
#[track_caller]
fn assert_ordered(items: Vec<ValidPath>) -> Vec<ValidPath> {
    let names: HashSet<_> = items.iter().map(|item| item.path.clone()).collect();
    let order = references_first(items);
    let mut before = HashSet::new();
    for item in &order {
        for reference in item.references.iter().filter(|reference| **reference != item.path) {
            assert!(before.contains(reference) || !names.contains(reference), "{} before {reference}", item.path);
        }
        assert!(before.insert(item.path.clone()), "{} twice", item.path);
    }
    assert_eq!(before, names);
    order
}

#[test]
fn each_item_comes_after_what_it_refers_to() {
    assert_ordered(Vec::new());
    // References to the item itself, and to what the machine has.
    assert_ordered(vec![item(0, &[0]), item(1, &[99, 0, 1])]);
    for rotation in 0..5 {
        let mut items = vec![item(0, &[]), item(1, &[0]), item(2, &[0, 1]), item(3, &[1]), item(4, &[2, 3, 0])];
        items.rotate_left(rotation);
        assert_ordered(items.clone());
        items.reverse();
        assert_ordered(items);
    }
}

#[test]
fn what_depends_on_nothing_keeps_its_place() {
    let items: Vec<_> = (0..100).map(|number| item(number, &[])).collect();
    assert_eq!(assert_ordered(items.clone()), items);
}

#[test]
fn a_chain_of_any_length_is_ordered() {
    let chain: Vec<_> = (0..50_000).map(|number| item(number, &[number + 1])).collect();
    assert_eq!(assert_ordered(chain.clone()).first().map(|item| &item.path), chain.last().map(|item| &item.path));
}

#[test]
fn any_graph_is_ordered() {
    use proptest::prelude::*;
    let graphs = proptest::collection::vec(proptest::collection::vec(0..40usize, 0..5), 1..40);
    // References go only to items with a smaller number, or to the item itself: there are no cycles in a store.
    proptest!(|(graph in graphs, turn in 0..40usize)| {
        let mut items: Vec<_> = graph
            .iter()
            .enumerate()
            .map(|(number, to)| item(number, &to.iter().map(|to| to % (number + 1)).collect::<Vec<_>>()))
            .collect();
        let length = items.len();
        items.rotate_left(turn % length);
        assert_ordered(items);
    });
}
