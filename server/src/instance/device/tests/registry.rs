//! Which instances share a seat, and what is reported of devices.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use super::super::super::testing::served;
use super::super::super::{Backend, InstanceSlot, ModelInstance, ServedVersion};
use super::super::resources::ResourceLimits;
use super::super::{ChosenDevice, DeviceOptions, Devices, Seat, SharedDevice};
use crate::error::LoadError;

/// A backend whose instances are on this device.
struct On(Option<&'static str>);

impl Backend for On {
    fn instantiate(&self, _: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        unreachable!("nothing is run")
    }

    fn device(&self, _: &InstanceSlot) -> Option<SharedDevice> {
        self.0.map(|name| SharedDevice { name: name.into(), slots: NonZeroUsize::MIN })
    }
}

fn model(name: &str, more: &str) -> Arc<ServedVersion> {
    let tensors = "input { name: \"A\" data_type: TYPE_INT32 dims: 1 } output { name: \"X\" data_type: TYPE_INT32 dims: 1 }";
    served(&format!("name: \"{name}\" backend: \"builtin\" {tensors} {more}"), 1, Path::new("."))
}

fn seats_of(devices: &Devices, served: &ServedVersion, backend: &On) -> Result<Vec<Option<Seat>>, LoadError> {
    let groups = served.config.instance_groups.iter().flat_map(|group| std::iter::repeat_n(group, group.count));
    let slots: Vec<InstanceSlot> = groups
        .enumerate()
        .map(|(ordinal, group)| InstanceSlot { group: group.clone(), ordinal, threads: NonZeroUsize::MIN })
        .collect();
    devices.seats(served, backend, &slots)
}

fn limiting(slots: &[(&str, usize)]) -> Devices {
    Devices::new(DeviceOptions {
        chosen: ChosenDevice::default(),
        overcommits_gpus: false,
        slots: slots.iter().map(|(name, slots)| ((*name).to_owned(), NonZeroUsize::new(*slots).unwrap())).collect(),
        limits_rates: true,
        resources: ResourceLimits::default(),
    })
}

const GROUPS: &str = "instance_group { count: 2 rate_limiter { resources { name: \"r\" count: 2 } } }
    instance_group { count: 1 rate_limiter { resources { name: \"r\" count: 1 } priority: 2 } }";

/// Which of the seats are the same, as letters; `-` is none.
fn letters(seats: &[Option<Seat>]) -> String {
    let mut known: Vec<&Seat> = Vec::new();
    let letter = |seat: &'_ Option<Seat>, known: &mut Vec<&Seat>| match seat {
        None => '-',
        Some(seat) => {
            let place = known.iter().position(|other| other.is_same(seat));
            char::from(b'a' + u8::try_from(place.unwrap_or(known.len())).unwrap())
        }
    };
    let mut text = String::new();
    for seat in seats {
        text.push(letter(seat, &mut known));
        known.extend(seat);
    }
    text
}

#[test]
fn instances_share_a_seat_unless_the_rate_limiter_tells_them_apart() {
    let model = model("m", GROUPS);
    let off = Devices::default();
    assert_eq!(letters(&seats_of(&off, &model, &On(None)).unwrap()), "---", "nothing to share");
    assert_eq!(letters(&seats_of(&off, &model, &On(Some("npu"))).unwrap()), "aaa");
    let on = limiting(&[]);
    let first = seats_of(&on, &model, &On(None)).unwrap();
    assert!(first[0].as_ref().unwrap().is_same(first[1].as_ref().unwrap()));
    assert!(!first[0].as_ref().unwrap().is_same(first[2].as_ref().unwrap()));
    assert_eq!(on.usage(), [], "no device is shared");
}

#[test]
fn usage_names_devices_and_the_models_on_them() {
    let devices = limiting(&[("npu", 3)]);
    let (a, b) = (model("a", GROUPS), model("b", ""));
    let seats = [seats_of(&devices, &a, &On(Some("npu"))).unwrap(), seats_of(&devices, &b, &On(Some("cpu"))).unwrap()];
    for seat in seats.iter().flatten().flatten() {
        drop(seat.acquire());
    }
    let usage = devices.usage();
    let summary: Vec<_> = usage
        .iter()
        .map(|device| {
            let models: Vec<_> = device.by_model.iter().map(|model| (&*model.model, model.version, model.executions)).collect();
            (&*device.name, device.slots, device.executions, models)
        })
        .collect();
    assert_eq!(summary, [("npu", 3, 3, vec![("a", 1, 3)]), ("cpu", 1, 1, vec![("b", 1, 1)])]);
    drop(seats);
    let usage = devices.usage();
    assert!(usage.iter().all(|device| device.by_model.is_empty() && device.executions > 0), "{usage:?}");
}

#[test]
fn a_model_that_was_refused_leaves_nothing_behind() {
    let devices = limiting(&[]);
    let first = seats_of(&devices, &model("a", GROUPS), &On(None)).unwrap();
    let global = model("b", "instance_group { rate_limiter { resources { name: \"r\" global: true count: 1 } } }");
    let refusal = seats_of(&devices, &global, &On(None)).unwrap_err().to_string();
    assert_eq!(refusal, "Resource \"r\" is present as both global and device-specific resource in the model configuration.");
    drop(first);
    seats_of(&devices, &global, &On(None)).unwrap();
}

#[test]
fn devices_that_nobody_shares_any_more_make_room() {
    for devices in [Devices::default(), limiting(&[])] {
        let model = model("m", "");
        let mut names = (0..300).map(|number| &*Box::leak(format!("npu{number}").into_boxed_str()));
        let seats: Vec<_> = names.by_ref().take(256).map(|name| seats_of(&devices, &model, &On(Some(name))).unwrap()).collect();
        let name = names.next().unwrap();
        let refusal = seats_of(&devices, &model, &On(Some(name))).unwrap_err().to_string();
        assert_eq!(refusal, "model 'm': the models of this server share more than 256 devices");
        drop(seats);
        drop(seats_of(&devices, &model, &On(Some(name))).unwrap());
        assert_eq!(devices.usage().len(), 256);
        assert!(devices.usage().iter().any(|device| &*device.name == name));
    }
}

/// A backend whose executions take so many slots of two.
struct Wide(usize);

impl Backend for Wide {
    fn instantiate(&self, _: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        unreachable!("nothing is run")
    }

    fn device(&self, _: &InstanceSlot) -> Option<SharedDevice> {
        Some(SharedDevice { name: "npu".into(), slots: NonZeroUsize::new(2).unwrap() })
    }

    fn turn_slots(&self, _: &InstanceSlot, available: NonZeroUsize) -> Result<NonZeroUsize, LoadError> {
        let slots = NonZeroUsize::new(self.0).unwrap();
        let refused = || LoadError::Backend { model: "m".to_owned(), reason: format!("{slots} of {available}") };
        (slots <= available).then_some(slots).ok_or_else(refused)
    }
}

#[test]
fn a_backend_says_how_many_slots_its_turns_take() {
    let model = model("m", "instance_group { count: 2 }");
    let groups = model.config.instance_groups.iter().flat_map(|group| std::iter::repeat_n(group, group.count));
    let slot = |(ordinal, group): (usize, &crate::config::InstanceGroup)| InstanceSlot {
        group: group.clone(),
        ordinal,
        threads: NonZeroUsize::MIN,
    };
    let slots: Vec<InstanceSlot> = groups.enumerate().map(slot).collect();
    let given = |devices: &Devices, wide: usize| {
        let seats = devices.seats(&model, &Wide(wide), &slots).map_err(|error| error.to_string())?;
        Ok::<Vec<usize>, String>(seats.iter().flatten().map(|seat| seat.slots().get()).collect())
    };
    for devices in [Devices::default(), limiting(&[])] {
        assert_eq!(given(&devices, 2), Ok(vec![2, 2]));
        assert_eq!(given(&devices, 3).unwrap_err(), "model 'm': 3 of 2");
        assert_eq!(devices.usage()[0].slots, 2);
    }
    // What the command line says counts before what the device says.
    let told = limiting(&[("npu", 5)]);
    assert_eq!(given(&told, 3), Ok(vec![3, 3]));
    let seats = told.seats(&model, &Wide(3), &slots).unwrap();
    let first = seats[0].as_ref().unwrap().acquire();
    let second = seats[1].as_ref().unwrap().reserve();
    drop(first);
    drop(second.wait());
    let usage = told.usage();
    assert_eq!((usage[0].executions, usage[0].by_model[0].executions), (2, 2));
}
