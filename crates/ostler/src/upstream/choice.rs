//! Which of several upstreams gets the next request: the one with the least in flight for its weight, and of equals
//! the next in turn. Pure.

/// One of several.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Requests that it has now.
    pub load: u32,
    /// At least 1.
    pub weight: u32,
}

/// The index of the one to take. `None` candidates are passed over; `turn` counts requests.
pub fn choose(
    candidates: impl Iterator<Item = Option<Candidate>>,
    turn: usize,
    count: usize,
) -> Option<usize> {
    let mut best: Option<(u64, u64, usize, usize)> = None;
    for (index, candidate) in candidates.enumerate() {
        let Some(Candidate { load, weight }) = candidate else {
            continue;
        };
        // With the request that is to come, so that of idle ones the heavier comes first.
        let (load, weight) = (u64::from(load) + 1, u64::from(weight));
        let distance = (index + count - turn % count) % count;
        let better = best.is_none_or(|(other, of, far, _)| {
            // load / weight < other / of, without a division.
            let (one, two) = (load * of, other * weight);
            one < two || one == two && distance < far
        });
        if better {
            best = Some((load, weight, distance, index));
        }
    }
    best.map(|(.., index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pick(loads: &[Option<(u32, u32)>], turn: usize) -> Option<usize> {
        let candidates = loads
            .iter()
            .map(|one| one.map(|(load, weight)| Candidate { load, weight }));
        choose(candidates, turn, loads.len())
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_taken_and_equals_in_turn() {
        let equal = [Some((0, 1)), Some((0, 1)), Some((0, 1))];
        let picks: Vec<_> = (0..4).filter_map(|turn| pick(&equal, turn)).collect();
        assert_eq!(picks, [0, 1, 2, 0]);
        assert_eq!(pick(&[Some((3, 1)), Some((5, 2))], 0), Some(1));
        assert_eq!(pick(&[Some((1, 1)), None, Some((1, 1))], 1), Some(2));
        assert_eq!(pick(&[None, None], 0), None);
        assert_eq!(pick(&[], 7), None);
    }

    proptest! {
        /// Requests that stay go to each as its weight says, one more or less.
        #[test]
        fn load_follows_weight(weights in proptest::collection::vec(1u32..6, 1..6)) {
            let mut loads = vec![0u32; weights.len()];
            let all: u32 = weights.iter().sum();
            for turn in 0..all * 3 {
                let now: Vec<_> = loads.iter().copied().zip(weights.iter().copied()).map(Some).collect();
                let index = pick(&now, turn as usize).expect("there are candidates");
                loads[index] += 1;
            }
            for (load, weight) in loads.iter().zip(&weights) {
                prop_assert_eq!(*load, weight * 3, "{:?} {:?}", loads, weights);
            }
        }
    }
}
