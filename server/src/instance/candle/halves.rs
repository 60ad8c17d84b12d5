//! What becomes of a batch for which a device has no memory: its halves run one after the other, and halves of those. Pure.

/// Who runs parts of a batch.
pub(super) trait Parts {
    /// That there was no memory, and why.
    type Short;
    /// Anything else that ends the whole batch.
    type Failure;

    /// Runs some requests of the batch to their end; what comes back says that there was no memory for them.
    ///
    /// # Errors
    /// What ends the whole batch.
    fn run(&mut self, requests: &[usize]) -> Result<Option<Self::Short>, Self::Failure>;

    /// These requests are about to be run in two parts.
    fn split(&mut self, requests: &[usize], short: &Self::Short);

    /// There is no memory for this request, not even alone.
    fn refuse(&mut self, request: usize, short: Self::Short);
}

/// Runs requests in parts, for which there was no memory together. Each is run or refused once, in their order.
///
/// # Errors
/// What ended the batch; parts that ran before have their results.
pub(super) fn run_in_halves<P: Parts>(parts: &mut P, requests: &[usize], short: P::Short) -> Result<(), P::Failure> {
    if let [request] = requests {
        parts.refuse(*request, short);
        return Ok(());
    }
    parts.split(requests, &short);
    let (first, second) = requests.split_at(requests.len() / 2);
    for half in [first, second] {
        if let Some(short) = parts.run(half)? {
            run_in_halves(parts, half, short)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A device with memory for so much, and how much each request takes.
    struct Device {
        memory: usize,
        takes: Vec<usize>,
        fails_at: Option<usize>,
        ran: Vec<usize>,
        refused: Vec<usize>,
        splits: usize,
    }

    impl Parts for Device {
        type Short = usize;
        type Failure = usize;

        fn run(&mut self, requests: &[usize]) -> Result<Option<usize>, usize> {
            let needed = requests.iter().map(|request| self.takes[*request]).sum();
            if needed > self.memory {
                return Ok(Some(needed));
            }
            if let Some(request) = requests.iter().find(|request| self.fails_at == Some(**request)) {
                return Err(*request);
            }
            self.ran.extend(requests);
            Ok(None)
        }

        fn split(&mut self, requests: &[usize], short: &usize) {
            assert!(requests.len() > 1 && *short > self.memory);
            self.splits += 1;
        }

        fn refuse(&mut self, request: usize, short: usize) {
            assert_eq!(short, self.takes[request], "refused for what it takes alone");
            self.refused.push(request);
        }
    }

    fn run(memory: usize, takes: &[usize], fails_at: Option<usize>) -> (Device, Result<(), usize>) {
        let mut device = Device { memory, takes: takes.to_vec(), fails_at, ran: Vec::new(), refused: Vec::new(), splits: 0 };
        let all: Vec<usize> = (0..takes.len()).collect();
        let result = run_in_halves(&mut device, &all, takes.iter().sum());
        (device, result)
    }

    #[test]
    fn halves_run_and_what_never_fits_is_refused_alone() {
        let (device, result) = run(4, &[1, 1, 1, 9, 2, 2, 1, 1], None);
        assert_eq!((result, device.refused, device.ran), (Ok(()), vec![3], vec![0, 1, 2, 4, 5, 6, 7]));
        assert_eq!(device.splits, 4, "eight, the first four, the pair with the large one, the last four");
    }

    #[test]
    fn a_failure_ends_the_batch_after_what_ran() {
        let (device, result) = run(2, &[1; 8], Some(5));
        assert_eq!((result, device.ran), (Err(5), vec![0, 1, 2, 3]));
    }

    proptest! {
        /// Every request is run or refused, once, and only those are refused that never fit.
        #[test]
        fn each_request_is_run_or_refused_once(memory in 1usize..20, takes in prop::collection::vec(1usize..24, 1..40)) {
            let together: usize = takes.iter().sum();
            prop_assume!(together > memory);
            let (device, result) = run(memory, &takes, None);
            prop_assert_eq!(result, Ok(()));
            let (fits, beyond): (Vec<usize>, Vec<usize>) = (0..takes.len()).partition(|request| takes[*request] <= memory);
            prop_assert_eq!((device.ran, device.refused), (fits, beyond));
        }
    }
}
