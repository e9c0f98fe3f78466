// SPDX-License-Identifier: GPL-3.0-or-later
//! The store items that a machine need not be asked about: it has them, and keeps them.

use std::collections::HashSet;

use crate::ground::store_path::StorePath;

/// Most items that are remembered for a connection. Each takes some 150 bytes.
const MOST_HELD: usize = 100_000;

/// Items that a machine has, and that are protected from its collector while the connection to its daemon is open: by a
/// temporary root of their own or of an item that refers to them.
#[derive(Default)]
pub struct Held(HashSet<StorePath>);

impl Held {
    /// Returns whether `item` is one of them.
    pub fn contains(&self, item: &StorePath) -> bool {
        self.0.contains(item)
    }

    /// Adds `items`, which the machine has and protects.
    pub fn add(&mut self, items: &[StorePath]) {
        if self.0.len() + items.len() > MOST_HELD {
            self.0.clear();
        }
        self.0.extend(items.iter().take(MOST_HELD).cloned());
    }

    /// Forgets all items: the connection was replaced, or the machine lacks one of them after all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::store_path::StoreDir;

    #[test]
    fn the_number_of_items_that_are_remembered_is_limited() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let item = |number: usize| store.parse(&format!("/gnu/store/{number:032}-x")).unwrap();
        let mut held = Held::default();
        held.add(&[item(1)]);
        held.add(&(2..=MOST_HELD).map(item).collect::<Vec<_>>());
        assert!(held.contains(&item(1)) && held.contains(&item(MOST_HELD)));
        held.add(&[item(0)]);
        assert!(held.contains(&item(0)) && !held.contains(&item(1)));
        held.add(&(1..MOST_HELD + 10).map(item).collect::<Vec<_>>());
        assert!(held.0.len() <= MOST_HELD);
        held.clear();
        assert!(!held.contains(&item(3)));
    }
}
