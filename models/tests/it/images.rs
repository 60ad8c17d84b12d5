//! Models of images: positions of any size, threads, two towers, half precision; and what is refused.

use std::path::Path;

use models::{Choice, Executor, ModelCard, Precision, Task, Tower};
use serde_json::{Value, json};

use crate::families::{TOLERANCE, executor};
use crate::fixture::{copy_of, edit, family};
use crate::recorded::{Fixture, Item, batch, difference, items, part};

const AS_IT_IS: Choice = Choice { task: None, tower: None };
const VISION: Choice = Choice { task: None, tower: Some(Tower::Vision) };
const TEXT: Choice = Choice { task: None, tower: Some(Tower::Text) };

/// Every directory with an encoder of images.
const IMAGES: [(&str, Choice); 9] = [
    ("clip", VISION),
    ("clip-vision", AS_IT_IS),
    ("dinov2-hidden", AS_IT_IS),
    ("dinov2-labels", AS_IT_IS),
    ("dinov2-registers-labels", AS_IT_IS),
    ("siglip", VISION),
    ("siglip-vision", AS_IT_IS),
    ("vit-hidden", AS_IT_IS),
    ("vit-labels", AS_IT_IS),
];

/// What is said of a spoiled copy, without its directory.
fn refusal(dir: &Path, choice: Choice) -> String {
    let error = ModelCard::read_as(dir, choice).map(|_| ()).unwrap_err();
    error.to_string().replace(&dir.display().to_string(), "DIR")
}

/// Seven images of the size that `card` takes, each with other pixels.
fn seven(card: &ModelCard) -> Vec<Item> {
    let numbers = card.images().unwrap().bytes() / 4;
    let pixel = |image: usize, at: usize| ((at * 7919 + image * 104_729) % 2003) as f32 / 1001.0 - 1.0;
    (0..7).map(|image| Item::Image((0..numbers).flat_map(|at| pixel(image, at).to_le_bytes()).collect())).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn positions_are_resized_to_the_images_of_the_preprocessor() {
    let mut resized = 0;
    for name in ["dinov2-hidden", "dinov2-labels", "dinov2-registers-labels"] {
        let fixture = Fixture::read(name);
        for index in 0..fixture.expected.images.len() {
            let shape = fixture.recorded.shape(&format!("pixel_values.{index}")).unwrap();
            let (height, width) = (shape[1], shape[2]);
            let copy = copy_of(&family(name));
            let crop = json!({ "crop_size": { "height": height, "width": width }, "size": { "shortest_edge": 99 } });
            edit(copy.path(), "preprocessor_config.json", |file| {
                file.as_object_mut().unwrap().extend(crop.as_object().unwrap().clone())
            });
            resized += usize::from((height, width) != (20, 20));
            let tasks = [(AS_IT_IS.task, "output"), (Some(Task::HiddenStates), "hidden")];
            for (task, recorded) in tasks {
                // The model without a head has its states as the output.
                let task = if name == "dinov2-hidden" { Some(Task::HiddenStates) } else { task };
                let Some(want) = fixture.values(&format!("{recorded}.{index}")) else { continue };
                let (card, mut executor) = executor(copy.path(), Choice { task, tower: None }, 1, Precision::F32);
                let images = card.images().unwrap();
                assert_eq!((images.height, images.width), (height, width), "{name}, image {index}");
                let pixels = fixture.values(&format!("pixel_values.{index}")).unwrap();
                let item = Item::Image(pixels.iter().flat_map(|value| value.to_le_bytes()).collect());
                let batch = batch(&card.encoder.input, [&item]);
                let results = executor.enqueue(&batch).unwrap();
                let largest = difference(part(&card, &batch, &results[0], 0), &want);
                assert!(largest <= TOLERANCE, "{name}, {recorded}.{index} of {height} x {width}: {largest:e}");
            }
        }
    }
    assert_eq!(resized, 9, "images of another size than the stored positions");
}

#[test]
fn pixels_behind_the_last_whole_patch_are_not_looked_at() {
    let fixture = Fixture::read("clip-vision");
    let copy = copy_of(&fixture.directory);
    // Still four patches of 5 along each side.
    edit(copy.path(), "config.json", |config| config["image_size"] = 23.into());
    let (card, mut executor) = executor(copy.path(), AS_IT_IS, 1, Precision::F32);
    for index in 0..fixture.expected.images.len() {
        let pixels = fixture.values(&format!("pixel_values.{index}")).unwrap();
        let mut larger = vec![9.0f32; 3 * 23 * 23];
        for (line, from) in pixels.chunks_exact(20).enumerate() {
            let (channel, y) = (line / 20, line % 20);
            larger[(channel * 23 + y) * 23..][..20].copy_from_slice(from);
        }
        let item = Item::Image(larger.iter().flat_map(|value| value.to_le_bytes()).collect());
        let result = executor.enqueue(&batch(&card.encoder.input, [&item])).unwrap();
        let largest = difference(&result[0].values, &fixture.values(&format!("output.{index}")).unwrap());
        assert!(largest <= TOLERANCE, "image {index}: {largest:e}");
    }
}

#[test]
fn the_size_of_images_has_an_order_of_sources() {
    let size = |name: &str, change: Value| {
        let copy = copy_of(&family(name));
        std::fs::write(copy.path().join("preprocessor_config.json"), change.to_string()).unwrap();
        let card = ModelCard::read(copy.path()).unwrap();
        let images = card.images().unwrap();
        (images.height, images.width)
    };
    let dinov2 = |change| size("dinov2-labels", change);
    assert_eq!(dinov2(json!({ "crop_size": { "height": 15, "width": 10 }, "size": { "shortest_edge": 30 } })), (15, 10));
    assert_eq!(dinov2(json!({ "crop_size": 15, "size": { "shortest_edge": 30 } })), (15, 15));
    assert_eq!(dinov2(json!({ "crop_size": 15, "size": { "height": 25, "width": 30 }, "do_center_crop": false })), (25, 30));
    assert_eq!(dinov2(json!({ "size": { "height": 25, "width": 30 }, "do_resize": false })), (20, 20));
    assert_eq!(dinov2(json!({ "size": { "shortest_edge": 30 } })), (20, 20), "the other edge is open");
    assert_eq!(dinov2(json!({ "size": 30 })), (20, 20), "one edge or both");
    assert_eq!(dinov2(json!({})), (20, 20));
    // Other families have positions for one size only.
    assert_eq!(size("vit-labels", json!({ "size": { "height": 25, "width": 30 } })), (30, 20));
}

#[test]
fn threads_and_chunks_change_no_bit() {
    for (name, choice) in IMAGES {
        for task in [choice.task, Some(Task::HiddenStates)] {
            let choice = Choice { task, ..choice };
            let (card, mut one) = executor(&family(name), choice, 1, Precision::F32);
            let (_, mut three) = executor(&family(name), choice, 3, Precision::F32);
            let images = seven(&card);
            let together = batch(&card.encoder.input, &images);
            let (one_thread, three_threads) = (one.enqueue(&together).unwrap(), three.enqueue(&together).unwrap());
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&one_thread[0].values), bits(&three_threads[0].values), "{name}");
            for (index, image) in images.iter().enumerate() {
                let alone = batch(&card.encoder.input, [image]);
                // Alone, all threads share one image.
                for executor in [&mut one, &mut three] {
                    let result = executor.enqueue(&alone).unwrap();
                    let got = part(&card, &together, &one_thread[0], index);
                    assert_eq!(bits(got), bits(&result[0].values), "{name}, image {index}");
                }
            }
            // More than a chunk holds, so that chunks follow each other in one arena.
            let many: Vec<&Item> = images.iter().cycle().take(40).collect();
            let many = batch(&card.encoder.input, many);
            let results = [one.enqueue(&many).unwrap(), three.enqueue(&many).unwrap()];
            for (result, index) in results.iter().flat_map(|result| (0..40).map(move |index| (result, index))) {
                let want = part(&card, &together, &one_thread[0], index % 7);
                assert_eq!(bits(part(&card, &many, &result[0], index)), bits(want), "{name}, image {index} of many");
            }
        }
    }
}

#[test]
fn half_precision_turns_results_by_little() {
    let mut least = 1f64;
    for (name, choice) in IMAGES {
        for task in [choice.task, Some(Task::HiddenStates)] {
            let choice = Choice { task, ..choice };
            let (card, mut exact) = executor(&family(name), choice, 1, Precision::F32);
            let (_, mut half) = executor(&family(name), choice, 1, Precision::Bf16);
            let images = seven(&card);
            let batch = batch(&card.encoder.input, &images);
            let (exact, half) = (exact.enqueue(&batch).unwrap(), half.enqueue(&batch).unwrap());
            assert_ne!(exact[0].values, half[0].values, "{name}: nothing was rounded");
            for index in 0..images.len() {
                let cosine = cosine(part(&card, &batch, &exact[0], index), part(&card, &batch, &half[0], index));
                assert!(cosine >= 0.999, "{name}, image {index}: {cosine}");
                least = least.min(cosine);
            }
        }
    }
    println!("least cosine {least}");
}

#[test]
fn both_towers_of_a_directory_compare_texts_with_images() {
    for name in ["clip", "siglip"] {
        let fixture = Fixture::read(name);
        let embeddings = |choice: Choice| {
            let (card, mut executor) = executor(&fixture.directory, choice, 1, Precision::F32);
            let items = items(&fixture, &card.encoder.input);
            let result = executor.enqueue(&batch(&card.encoder.input, &items)).unwrap().remove(0);
            result.values.chunks_exact(result.columns).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let number = |tensor: &str| {
            let weights = models::Weights::open(&fixture.directory).unwrap();
            weights.shape(tensor).map(<[usize]>::to_vec).map(|shape| weights.floats(tensor, &shape).unwrap()[0])
        };
        let (scale, bias) = (number("logit_scale").unwrap().exp(), number("logit_bias").unwrap_or(0.0));
        let (texts, images) = (embeddings(TEXT), embeddings(VISION));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let pairs = texts.iter().flat_map(|text| images.iter().map(move |image| (text, image)));
        let got: Vec<f32> = pairs.map(|(text, image)| scale * dot(text, image) + bias).collect();
        let largest = difference(&got, &fixture.values("similarity").unwrap());
        assert!(largest <= TOLERANCE, "{name}: {largest:e}");
    }
}

#[test]
fn the_tower_of_a_directory() {
    for name in ["clip", "siglip"] {
        let copy = copy_of(&family(name));
        let is_text = |choice| ModelCard::read_as(copy.path(), choice).unwrap().tokens().is_some();
        assert!(is_text(AS_IT_IS), "{name}: with a tokenizer");
        assert!(is_text(TEXT) && !is_text(VISION), "{name}");
        std::fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
        assert!(!is_text(AS_IT_IS), "{name}: without a tokenizer");
        assert!(is_text(TEXT), "{name}: ids may come without a tokenizer");
    }
    assert!(ModelCard::read_as(&family("clip-vision"), VISION).is_ok());
    assert_eq!(
        refusal(copy_of(&family("clip-vision")).path(), TEXT),
        "DIR/config.json: tower 'text' is not supported; supported: vision"
    );
    assert_eq!(
        refusal(copy_of(&family("bert-tokens")).path(), VISION),
        "DIR/config.json: tower 'vision' is not supported; supported: text"
    );
}

#[test]
fn sizes_that_a_section_leaves_out_are_the_librarys() {
    let read = |config: Value, choice: Choice| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        ModelCard::read_as(dir.path(), choice).unwrap()
    };
    // The first published files of SigLIP say no more than this.
    let siglip = json!({
        "architectures": ["SiglipModel"], "model_type": "siglip", "text_config": { "model_type": "siglip_text_model" },
        "vision_config": { "model_type": "siglip_vision_model" },
    });
    let sizes = |card: &ModelCard| {
        let encoder = &card.encoder;
        [encoder.hidden_size, encoder.intermediate_size, encoder.heads, encoder.layers, card.output_size]
    };
    let text = read(siglip.clone(), TEXT);
    assert_eq!(sizes(&text), [768, 3072, 12, 12, 768]);
    assert_eq!((text.max_length, text.pads_to, text.tokens().unwrap().vocab_size), (64, Some(64), 32000));
    let vision = read(siglip, VISION);
    assert_eq!(sizes(&vision), [768, 3072, 12, 12, 768]);
    assert_eq!((vision.images().unwrap().patches(), vision.pads_to), (14 * 14, None));
    let clip = json!({ "model_type": "clip", "text_config": {}, "vision_config": {} });
    let text = read(clip.clone(), TEXT);
    assert_eq!(sizes(&text), [512, 2048, 8, 12, 512]);
    assert_eq!((text.max_length, text.pads_to, text.tokens().unwrap().vocab_size), (77, None, 49408));
    let vision = read(clip, VISION);
    assert_eq!((sizes(&vision), vision.images().unwrap().patches()), ([768, 3072, 12, 12, 512], 7 * 7));
    // Where a tower is described twice, the second description counts, and it alone.
    let twice = json!({
        "model_type": "clip", "text_config": { "hidden_size": 20, "num_hidden_layers": 3, "hidden_act": "gelu" },
        "text_config_dict": { "hidden_size": 24 }, "vision_config": {}, "vision_config_dict": null,
    });
    assert_eq!(sizes(&read(twice, TEXT)), [24, 2048, 8, 12, 512]);
    // 384 is no multiple of 14: the pixels that are left over are not looked at.
    let uneven = json!({ "model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14 });
    assert_eq!(read(uneven, AS_IT_IS).images().unwrap().patches(), 27 * 27);
    assert_eq!(read(json!({ "model_type": "vit" }), AS_IT_IS).images().unwrap().tokens(), 197);
    let dinov2 =
        read(json!({ "model_type": "dinov2", "hidden_size": 1536, "num_attention_heads": 24, "use_swiglu_ffn": true }), AS_IT_IS);
    assert_eq!(dinov2.encoder.intermediate_size, 4096, "the published giant model");
    let registers = read(json!({ "model_type": "dinov2_with_registers", "patch_size": 14 }), AS_IT_IS);
    assert_eq!(registers.images().unwrap().tokens(), 256 + 5);
}

/// Directory, choice, field, value, and what is said of it.
fn refused() -> Vec<(&'static str, Choice, &'static str, Value, &'static str)> {
    vec![
        (
            "vit-labels",
            AS_IT_IS,
            "image_size",
            json!([30, 20, 3]),
            "is a list of 3; expected an integer from 1 to 16384, or [height, width] of such",
        ),
        ("vit-labels", AS_IT_IS, "image_size", json!(0), "is 0; expected an integer from 1 to 16384, or [height, width] of such"),
        ("vit-labels", AS_IT_IS, "patch_size", json!(31), "is \"31 x 31\"; expected 1 to 65536 patches in an image of 30 x 20"),
        (
            "vit-hidden",
            AS_IT_IS,
            "hidden_act",
            json!("mish"),
            "is \"mish\"; expected one of gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu, silu, tanh",
        ),
        ("vit-hidden", AS_IT_IS, "num_channels", json!(300), "is 300; expected an integer from 1 to 256"),
        (
            "dinov2-hidden",
            AS_IT_IS,
            "image_size",
            json!([20, 25]),
            "is \"20 x 25\"; expected an integer: this family has square images and patches only",
        ),
        (
            "dinov2-hidden",
            AS_IT_IS,
            "patch_size",
            json!([5, 4]),
            "is \"5 x 4\"; expected an integer: this family has square images and patches only",
        ),
        ("dinov2-hidden", AS_IT_IS, "mlp_ratio", json!(0), "is 0.0; expected a ratio to hidden_size 40 that gives 1 to 2097152"),
        ("dinov2-registers-labels", AS_IT_IS, "num_register_tokens", json!(-1), "is -1; expected an integer from 0 to 1024"),
        ("clip", TEXT, "text_config.layer_norm_eps", json!("x"), "is \"x\"; expected a number"),
        ("clip", TEXT, "text_config.num_attention_heads", json!(7), "is 7; expected a divisor of hidden_size 30"),
        (
            "clip",
            VISION,
            "vision_config.image_size",
            json!("big"),
            "is \"big\"; expected an integer from 1 to 16384, or [height, width] of such",
        ),
        (
            "clip",
            VISION,
            "vision_config.model_type",
            json!("siglip_vision_model"),
            "is \"siglip_vision_model\"; expected \"clip_vision_model\" (others are not supported)",
        ),
        ("clip", VISION, "vision_config", json!(3), "is 3; expected an object"),
        ("clip", VISION, "vision_config", json!(null), "is missing; expected an object that describes this encoder"),
        ("clip", TEXT, "projection_dim", json!(0), "is 0; expected an integer from 1 to 2097152"),
        (
            "siglip",
            VISION,
            "vision_config.vision_use_head",
            json!(false),
            "is false; expected true: without its head it makes no embedding",
        ),
        ("siglip", TEXT, "text_config.max_position_embeddings", json!(0), "is 0; expected an integer from 1 to 2097152"),
        ("siglip-text", AS_IT_IS, "projection_size", json!("wide"), "is \"wide\"; expected an integer from 1 to 2097152"),
    ]
}

#[test]
fn fields_that_are_refused() {
    let spoiled = |name: &str, choice: Choice, path: &str, value: Value| {
        let copy = copy_of(&family(name));
        edit(copy.path(), "config.json", |config| match path.split_once('.') {
            Some((section, field)) => config[section][field] = value,
            None => config[path] = value,
        });
        refusal(copy.path(), choice)
    };
    for (name, choice, path, value, text) in refused() {
        assert_eq!(spoiled(name, choice, path, value), format!("DIR/config.json: field '{path}' {text}"));
    }
}

#[test]
fn tasks_and_files_that_are_refused() {
    let task =
        |name: &str, choice: Choice, task: Task| refusal(copy_of(&family(name)).path(), Choice { task: Some(task), ..choice });
    let known = "supported: embedding, hidden_states and what the model's family has a head for";
    let unsupported = |task: &str| format!("DIR/config.json: task '{task}' is not supported; {known}");
    assert_eq!(task("vit-hidden", AS_IT_IS, Task::FillMask), unsupported("fill_mask"));
    assert_eq!(task("dinov2-hidden", AS_IT_IS, Task::TokenClassification), unsupported("token_classification"));
    assert_eq!(task("clip", VISION, Task::Classification), unsupported("classification"));
    assert_eq!(task("siglip", TEXT, Task::Classification), unsupported("classification"));
    let copy = copy_of(&family("vit-labels"));
    edit(copy.path(), "config.json", |config| config["architectures"] = json!(["ViTForMaskedImageModeling"]));
    let masked = refusal(copy.path(), AS_IT_IS);
    assert!(
        masked.starts_with("DIR/config.json: architecture 'ViTForMaskedImageModeling' is not supported; supported: "),
        "{masked}"
    );
    let copy = copy_of(&family("dinov2-hidden"));
    edit(copy.path(), "preprocessor_config.json", |file| file["crop_size"] = json!({ "height": 0, "width": 5 }));
    assert_eq!(
        refusal(copy.path(), AS_IT_IS),
        "DIR/preprocessor_config.json: field 'crop_size.height' is 0; expected an integer from 1 to 16384"
    );
}
