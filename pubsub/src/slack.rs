/// How much room a collection of so many entries that has room for `capacity` should keep, if it is to give some back:
/// twice what it needs, once it uses a quarter at most. So the peak of a topic or of a connection is not kept for ever,
/// where nobody is charged for it; and the entries that are moved are no more than those that went or came since the last
/// time.
pub(crate) fn room_to_keep(len: usize, capacity: usize) -> Option<usize> {
    // With one entry at most the least room stays: who comes and goes in turns does not allocate.
    let len = len.max(1);
    (len <= capacity / 4).then_some(2 * len)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use indexmap::IndexSet;

    use super::*;

    #[test]
    fn what_is_kept_follows_what_is_used_and_each_removal_moves_little() {
        let (mut set, mut moved) = (IndexSet::new(), 0);
        for round in 0..20 {
            let most = [10_000, 3, 500, 1][round % 4];
            set.extend(0..most);
            for left in (0..most).rev() {
                set.swap_remove(&left);
                if let Some(room) = room_to_keep(set.len(), set.capacity()) {
                    moved += set.len();
                    set.shrink_to(room);
                }
                assert!(set.capacity() <= (4 * set.len()).max(7), "{} of {}", set.len(), set.capacity());
            }
        }
        assert!(moved <= 5 * 10_504, "{moved}");
    }

    #[test]
    fn one_that_comes_and_goes_finds_its_room_again() {
        let (mut queue, mut shrunk) = (VecDeque::new(), 0);
        for n in 0..100 {
            queue.push_back(n);
            if n % 3 > 0 {
                queue.clear();
            }
            if let Some(room) = room_to_keep(queue.len(), queue.capacity()) {
                shrunk += 1;
                queue.shrink_to(room);
            }
        }
        assert!(shrunk <= 1, "{shrunk}");
    }
}
