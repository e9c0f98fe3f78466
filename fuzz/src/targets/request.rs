// SPDX-License-Identifier: GPL-3.0-or-later
//! What guix-daemon says to its build hook: any number of requests, then, after `# accept`, items.

use guix_offload::daemon::BuildOptions;
use guix_offload::doors::hook::{parse_request, read_request, read_work};
use guix_offload::ground::store_path::StoreDir;

/// The first byte says how many requests are refused; the rest is what the daemon says.
pub fn run(data: &[u8]) {
    let Some((refused, said)) = data.split_first() else { return };
    let store = StoreDir::new("/gnu/store").unwrap();
    let mut input = said;
    for _ in 0..=refused % 4 {
        let question = match read_request(&mut input) {
            Ok(Some(line)) => parse_request(&line, &store).map(|question| (line, question)),
            Ok(None) => return assert!(input.is_empty()),
            Err(error) => Err(error),
        };
        match question {
            Ok((line, question)) => {
                let (words, request): (Vec<&str>, _) = (line.split(' ').collect(), question.request);
                assert_eq!(words[0] == "1", question.wants_local);
                assert_eq!(words.len(), 4);
                assert_eq!(request.requirements.system, words[1]);
                assert_eq!(request.derivation.as_str(), words[2]);
                assert!(request.derivation.is_derivation());
                let features: Vec<&str> = words[3].split(',').filter(|feature| !feature.is_empty()).collect();
                assert_eq!(request.requirements.features, features);
            }
            Err(error) => return assert_printable(&error.to_string()),
        }
    }
    let options = BuildOptions { max_silent_time: 0, timeout: 0, print_build_trace: false, ..BuildOptions::default() };
    let before = input;
    match read_work(&mut input, &store, &options) {
        Ok(work) => {
            let text = std::str::from_utf8(&before[..before.len() - input.len()]).unwrap();
            let items: Vec<&str> = text.split_ascii_whitespace().collect();
            let found: Vec<&str> = work.inputs.iter().chain(&work.outputs).map(|item| item.as_str()).collect();
            assert_eq!(found, items);
        }
        Err(error) => assert_printable(&error.to_string()),
    }
}

/// A message may quote what it is about, but nothing that a terminal or guix-daemon would act on.
pub fn assert_printable(message: &str) {
    assert!(!message.contains(char::is_control), "{message:?}");
}
