//! Threads around the batches of an instance that are under way.

use std::num::NonZeroUsize;
use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use super::flights::Flights;
use super::try_schedules;

/// Batches that are launched.
const ALL: usize = 4;

/// What a device does: launched and ended, each by its number.
#[derive(Default)]
struct Device {
    running: Vec<usize>,
    ended: Vec<usize>,
}

fn start(depth: usize) -> (Arc<Flights<usize>>, Arc<Mutex<Device>>) {
    (Arc::new(Flights::new(NonZeroUsize::new(depth).unwrap())), Arc::default())
}

fn waits_for_ends(
    flights: &Arc<Flights<usize>>,
    device: &Arc<Mutex<Device>>,
    breaks_at: Option<usize>,
) -> thread::JoinHandle<()> {
    let (flights, device) = (Arc::clone(flights), Arc::clone(device));
    thread::spawn(move || {
        while let Some(flight) = flights.next() {
            let mut state = device.lock().unwrap();
            assert_eq!(state.running.remove(0), flight, "in the order of launches");
            state.ended.push(flight);
            drop(state);
            flights.land(breaks_at == Some(flight));
        }
    })
}

#[test]
fn each_batch_ends_once_in_order_and_no_more_are_under_way_than_may() {
    try_schedules(|| {
        for depth in [1, 2] {
            let (flights, device) = start(depth);
            let ends = waits_for_ends(&flights, &device, None);
            for flight in 0..ALL {
                flights.wait_for_place();
                let mut state = device.lock().unwrap();
                state.running.push(flight);
                assert!(state.running.len() <= depth, "{} under way", state.running.len());
                drop(state);
                flights.launch(flight);
            }
            flights.close();
            ends.join().unwrap();
            assert_eq!(device.lock().unwrap().ended, (0..ALL).collect::<Vec<_>>());
        }
    });
}

#[test]
fn who_waits_for_all_finds_nothing_under_way() {
    try_schedules(|| {
        let (flights, device) = start(2);
        let ends = waits_for_ends(&flights, &device, None);
        for flight in 0..ALL {
            flights.wait_for_place();
            device.lock().unwrap().running.push(flight);
            flights.launch(flight);
            if flight == 2 {
                flights.wait_for_all();
                let state = device.lock().unwrap();
                assert_eq!((state.running.len(), state.ended.len()), (0, 3));
            }
        }
        flights.wait_for_all();
        flights.close();
        ends.join().unwrap();
        assert_eq!(device.lock().unwrap().ended.len(), ALL);
    });
}

#[test]
fn an_instance_that_broke_is_known_before_it_is_replaced() {
    try_schedules(|| {
        let (flights, device) = start(2);
        let ends = waits_for_ends(&flights, &device, Some(1));
        let mut replaced = 0;
        for flight in 0..ALL {
            flights.wait_for_place();
            if flights.take_broken() {
                flights.wait_for_all();
                assert!(device.lock().unwrap().running.is_empty(), "replaced while the old one runs");
                replaced += 1;
            }
            device.lock().unwrap().running.push(flight);
            flights.launch(flight);
        }
        flights.wait_for_all();
        replaced += usize::from(flights.take_broken());
        flights.close();
        ends.join().unwrap();
        assert_eq!((replaced, device.lock().unwrap().ended.len()), (1, ALL));
    });
}
