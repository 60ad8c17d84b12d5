//! Models that share a device take turns on it, whatever reaches them over the wire.

use server::instance::device::DeviceUsage;
use tokio::sync::mpsc;

use super::*;

/// Requests of a flood: two hundred of its largest batches.
const FLOOD: usize = 1600;

/// A model on the virtual device `npu`.
fn fake(settings: &[(&str, &str)], more: &str) -> String {
    let parameters: String = settings
        .iter()
        .map(|(key, value)| format!("parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }}\n"))
        .collect();
    let more = format!("parameters {{ key: \"device\" value {{ string_value: \"npu\" }} }}\n{parameters}{more}");
    config("fake", &[("INPUT0", "FP32", "1")], &[("OUTPUT0", "FP32", "1")], &more)
}

/// Sends so many requests to each model at once; their names come back in the order of their answers.
async fn finishing_order(served: &Served, models: &[(&str, usize)]) -> Vec<String> {
    let total = models.iter().map(|(_, count)| count).sum();
    let (sender, mut answered) = mpsc::channel(total);
    let client = served.client().await;
    for (model, count) in models {
        for number in 0..*count {
            let (mut client, sender, model) = (client.clone(), sender.clone(), (*model).to_owned());
            tokio::spawn(async move {
                let answer = client.model_infer(one(&model, &number.to_string(), 1.0)).await.unwrap().into_inner();
                sender.send(answer.model_name).await.unwrap();
            });
        }
    }
    drop(sender);
    let mut order = Vec::with_capacity(total);
    while let Some(model) = patient(answered.recv()).await {
        order.push(model);
    }
    assert_eq!(order.len(), total);
    order
}

fn usage(served: &Served) -> DeviceUsage {
    served.front_end.repository.device_usage().into_iter().find(|device| &*device.name == "npu").unwrap()
}

fn executions(served: &Served, model: &str) -> u64 {
    usage(served).by_model.iter().find(|known| &*known.model == model).unwrap().executions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_device_runs_one_batch_at_a_time() {
    let settings = [("fixed_us", "4000")];
    let served = Served::start(&[("a", &[1], fake(&settings, "")), ("b", &[1], fake(&settings, ""))]).await;
    let start = std::time::Instant::now();
    let order = finishing_order(&served, &[("a", 15), ("b", 15)]).await;
    // Nothing that takes turns can be faster.
    assert!(start.elapsed() >= Duration::from_millis(30 * 4), "{:?}: {order:?}", start.elapsed());
    let device = usage(&served);
    assert_eq!((device.slots, device.executions), (1, 30));
    // In which order the answers arrive is up to this machine; that turns are fair is shown without a clock.
    assert_eq!((executions(&served, "a"), executions(&served, "b")), (15, 15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooded_model_delays_another_by_the_batch_that_runs() {
    let flooded = fake(&[("per_row_us", "1500")], "max_batch_size: 8 dynamic_batching { }");
    let rare = fake(&[("fixed_us", "1000")], "");
    let served = Served::start(&[("flooded", &[1], flooded), ("rare", &[1], rare)]).await;
    let flood = async {
        let mut client = served.client().await;
        let (sender, mut answered) = mpsc::channel::<()>(FLOOD);
        for _ in 0..FLOOD {
            let (mut client, sender) = (client.clone(), sender.clone());
            tokio::spawn(async move {
                let row = request("flooded", "", &[("INPUT0", "FP32", &[1, 1], floats(&[1.0]))]);
                client.model_infer(row).await.unwrap();
                drop(sender);
            });
        }
        drop(sender);
        // Once the first has been answered, and enough are left: two hundred batches.
        while executions(&served, "flooded") < 2 {
            tokio::task::yield_now().await;
        }
        let mut passed = Vec::new();
        for _ in 0..8 {
            let before = executions(&served, "flooded");
            client.model_infer(one("rare", "", 1.0)).await.unwrap();
            passed.push(executions(&served, "flooded") - before);
        }
        let left = executions(&served, "flooded");
        assert!(left < FLOOD as u64 / 8, "the flood was over too early to show anything: {left}");
        assert!(patient(answered.recv()).await.is_none());
        passed
    };
    let mut passed = flood.await;
    passed.sort_unstable();
    // One batch may begin before the request is there, and one between its end and its answer; more only where this
    // machine stands still for longer than a batch takes, which the best of eight are spared. In a common queue it
    // would have been all that waited.
    assert!(passed[2] <= 2, "{passed:?}");
}
