use std::collections::BTreeSet;
use std::{iter, mem};

/// A set that has an element at least, and mostly no more: that one takes no memory elsewhere.
#[derive(Clone, Debug)]
#[expect(clippy::box_collection, reason = "there are many sets, and few of them are of more than one")]
pub(super) enum FewSet<T> {
    One(T),
    /// Of any number, since what was many may shrink.
    More(Box<BTreeSet<T>>),
}

/// What a removal has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    /// It was not there.
    Nothing,
    /// Others are left.
    One,
    /// It was the only one. It is still there: the set is to be dropped.
    Last,
}

impl<T: Copy + Ord> FewSet<T> {
    pub(super) fn contains(&self, element: T) -> bool {
        match self {
            Self::One(one) => *one == element,
            Self::More(more) => more.contains(&element),
        }
    }

    pub(super) fn insert(&mut self, element: T) {
        match self {
            Self::One(one) if *one == element => {}
            Self::One(one) => *self = Self::More(Box::new(BTreeSet::from([*one, element]))),
            Self::More(more) => drop(more.insert(element)),
        }
    }

    pub(super) fn remove(&mut self, element: T) -> Removed {
        match self {
            _ if !self.contains(element) => Removed::Nothing,
            Self::More(more) if more.len() > 1 => {
                more.remove(&element);
                Removed::One
            }
            _ => Removed::Last,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::More(more) => more.len(),
        }
    }

    /// Takes out so many of the first, of which some are to be left.
    pub(super) fn take_first(&mut self, most: usize) -> impl Iterator<Item = T> {
        iter::from_fn(move || match self {
            Self::More(more) if more.len() > 1 => more.pop_first(),
            _ => None,
        })
        .take(most)
    }

    pub(super) fn into_sorted(self) -> impl Iterator<Item = T> {
        let (one, more) = match self {
            Self::One(one) => (Some(one), BTreeSet::new()),
            Self::More(mut more) => (None, mem::take(&mut *more)),
        };
        iter::chain(one, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_that_is_never_empty() {
        let mut set = FewSet::One(2);
        assert_eq!((set.remove(1), set.remove(2)), (Removed::Nothing, Removed::Last));
        set.insert(2);
        assert!(matches!(set, FewSet::One(2)));
        for element in [3, 1, 3] {
            set.insert(element);
        }
        assert!(set.contains(1) && set.contains(3) && !set.contains(4));
        assert_eq!(set.clone().into_sorted().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((set.remove(4), set.remove(1), set.remove(3)), (Removed::Nothing, Removed::One, Removed::One));
        assert_eq!((set.remove(3), set.remove(2)), (Removed::Nothing, Removed::Last));
        assert_eq!(set.into_sorted().collect::<Vec<_>>(), [2]);
    }
}
