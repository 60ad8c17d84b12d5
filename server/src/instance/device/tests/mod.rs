//! Tests of devices: scripts that pin who runs next, and properties that pin safety and fairness.

mod gate;
mod properties;
mod registry;
mod scripts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::resources::{Needs, ResourceLimit, ResourceLimits, ResourcePool};
use super::schedule::{ClaimId, DeviceScheduler, Grant, ShareId, ShareSpec};
use crate::clock::Timestamp;
use crate::config::Resource;

/// A device that a script drives. After every line, all turns that can be granted are.
struct Bench {
    scheduler: DeviceScheduler<String>,
    resources: ResourcePool,
    shares: BTreeMap<String, (ShareId, Needs)>,
    waiting: Vec<(String, ClaimId)>,
    running: Vec<(String, Grant)>,
    now: Timestamp,
    said: String,
}

/// Runs a script and returns what happened. A line is one of
/// `limit <resource> <count> [<device>]` (before all others; the shares are on device 0), `share <name> <key>=<value>..` with the keys `weight`, `priority`,
/// `divisor`, `instances`, `slots`, `needs` (`r:2,s:1`), `claim <name>..`, `withdraw <name>`, `remove <name>`,
/// `run <ms>` (time passes), `end <name>..` (its oldest execution ends), `turn <ms> <name>..` (time passes, every
/// execution ends, and each of these claims again before anyone is granted a turn).
fn script(slots: usize, lines: &str) -> String {
    let mut limits = Vec::new();
    let mut bench: Option<Bench> = None;
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["limit", resource, count, device @ ..] = &words[..] {
            let device = device.first().map(|device| (*device).to_owned());
            limits.push(ResourceLimit { name: (*resource).to_owned(), count: count.parse().unwrap(), device });
            continue;
        }
        let bench = bench.get_or_insert_with(|| Bench::new(slots, std::mem::take(&mut limits)));
        bench.step(&words);
        bench.grant();
    }
    bench.unwrap().said
}

impl Bench {
    fn new(slots: usize, limits: Vec<ResourceLimit>) -> Self {
        Self {
            scheduler: DeviceScheduler::new(NonZeroUsize::new(slots).unwrap()),
            resources: ResourcePool::new(ResourceLimits::new(limits)),
            shares: BTreeMap::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            now: Timestamp::default(),
            said: String::new(),
        }
    }

    fn step(&mut self, words: &[&str]) {
        match words {
            ["share", name, settings @ ..] => self.share(name, settings),
            ["claim", names @ ..] => names.iter().for_each(|name| self.claim(name)),
            ["withdraw", name] => {
                let place = self.waiting.iter().position(|(waiting, _)| waiting == name).unwrap();
                let (_, claim) = self.waiting.remove(place);
                let payload = self.scheduler.withdraw(claim, &mut self.resources);
                assert_eq!(payload.as_deref(), Some(*name));
            }
            ["remove", name] => {
                let (share, needs) = self.shares.remove(*name).unwrap();
                let payloads = self.scheduler.deregister(share, &mut self.resources);
                self.resources.deregister(&needs);
                self.waiting.retain(|(waiting, _)| waiting != name);
                writeln!(self.said, "{} ms: {name} is gone, {} claims came back", self.millis(), payloads.len()).unwrap();
            }
            ["run", millis] => self.run(millis),
            ["end", names @ ..] => names.iter().for_each(|name| self.end(name)),
            ["turn", millis, names @ ..] => {
                self.run(millis);
                for (_, grant) in std::mem::take(&mut self.running) {
                    self.scheduler.release(self.now, grant, &mut self.resources);
                }
                names.iter().for_each(|name| self.claim(name));
            }
            other => panic!("no such line: {other:?}"),
        }
    }

    fn share(&mut self, name: &str, settings: &[&str]) {
        let mut spec = ShareSpec::new(name);
        let mut needs = Vec::new();
        for setting in settings {
            let (key, value) = setting.split_once('=').unwrap();
            match key {
                "weight" => spec.weight = value.parse().unwrap(),
                "divisor" => spec.divisor = value.parse().unwrap(),
                "priority" => spec.priority = value.parse().unwrap(),
                "instances" => spec.instances = value.parse().unwrap(),
                "slots" => spec.slots = value.parse().unwrap(),
                "needs" => needs.extend(value.split(',').map(|need| need_of(need, false))),
                "global" => needs.extend(value.split(',').map(|need| need_of(need, true))),
                other => panic!("no such setting: {other}"),
            }
        }
        match self.resources.register(name, "0", &needs) {
            Ok(needs) => {
                let share = self.scheduler.register(ShareSpec { needs: needs.clone(), ..spec });
                self.shares.insert(name.to_owned(), (share, needs));
            }
            Err(error) => writeln!(self.said, "{name} is refused: {error}").unwrap(),
        }
    }

    fn claim(&mut self, name: &str) {
        let claim = self.scheduler.claim(self.shares[name].0, None, name.to_owned());
        self.waiting.push((name.to_owned(), claim));
    }

    fn run(&mut self, millis: &str) {
        self.now = self.now.plus(Duration::from_millis(millis.parse().unwrap()));
    }

    fn end(&mut self, name: &str) {
        let place = self.running.iter().position(|(running, _)| running == name).unwrap();
        let (_, grant) = self.running.remove(place);
        self.scheduler.release(self.now, grant, &mut self.resources);
    }

    fn grant(&mut self) {
        while let Some((grant, name)) = self.scheduler.next(self.now, &mut self.resources) {
            let place = self.waiting.iter().position(|(_, claim)| *claim == grant.claim()).unwrap();
            assert_eq!(self.waiting.remove(place).0, name);
            writeln!(self.said, "{} ms: {name} runs", self.millis()).unwrap();
            self.running.push((name, grant));
        }
    }

    fn millis(&self) -> u64 {
        self.now.as_nanos() / 1_000_000
    }
}

fn need_of(text: &str, global: bool) -> Resource {
    let (name, count) = text.split_once(':').unwrap();
    Resource { name: name.to_owned(), global, count: count.parse().unwrap() }
}
