//! A `config.json` from anybody: an error that says why on one line, or a configuration that is planned
//! without touching anything, and that means the same once it was written again.

use std::path::Path;

use podrun::paths::Roots;
use podrun::spec::settings::Settings;
use podrun::spec::{bundle, limits, validate};

pub(super) fn check(data: &[u8]) {
    let _ = bundle::parse_process(data, &|_| ()).map(|process| validate::process(&process));
    let mut spec = match bundle::parse(data, &|_| ()) {
        Ok(spec) => spec,
        Err(error) => return one_line(&error),
    };
    let text = serde_json::to_vec(&spec).expect("a configuration that was read can be written");
    let again = bundle::parse(&text, &|warning| panic!("{warning}")).expect("what podrun wrote");
    assert_eq!(spec, again);
    if let Err(error) = validate::validate(&spec) {
        return one_line(&error);
    }
    bundle::anchor(&mut spec, Path::new("/nonexistent/bundle"));
    if let Some(resources) = limits::resources(&spec).cloned() {
        let _ = limits::merge(&mut spec, &resources);
    }
    let roots = Roots { root: "/nonexistent/root".into(), run_root: "/nonexistent/run".into() };
    let paths = roots.container(&"fuzz".parse().expect("an id"));
    match Settings::of(&spec)
        .and_then(|settings| podrun::launch::plan(&spec, &settings, &paths, Path::new("/nonexistent/bundle")))
    {
        Ok(_) => {}
        Err(error) => one_line(&error),
    }
}

fn one_line(error: &podrun::error::Error) {
    let text = error.to_string();
    assert!(!text.chars().any(podrun::error::acts), "{text:?}");
}
