//! Any text is either a topology that compiles or a list of findings; neither way panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vnet_config::{Attachments, load_with};

fuzz_target!(|text: &str| {
    match load_with(text, "fuzz", &Attachments::default()) {
        Ok(loaded) => drop(vnet_fabric::converge(&loaded.topology)),
        Err(findings) => {
            assert!(findings.has_errors(), "refused without a reason");
            drop(findings.to_string());
        }
    }
});
