//! Azure's flow logs, summed up.

use vnet_analysis::flow_log::{Direction, Totals, Unreadable, sum};

const LOG: &str = include_str!("flow_log/EX-11.2.json");

#[test]
fn a_flow_is_the_sum_of_its_records() {
    let sums = sum(LOG).unwrap();
    let (flow, totals) = sums.first_key_value().unwrap();
    assert_eq!(sums.len(), 1);
    assert_eq!(
        (flow.rule.as_str(), flow.direction, flow.destination_port),
        ("nic80", Direction::Inbound, 80)
    );
    assert_eq!((totals.packets(), totals.bytes()), (9_125, 5_256_000));
    let parts = Totals {
        begun: 1,
        ended: 1,
        denied: 0,
        packets_sent: 1_073,
        bytes_sent: 618_048,
        packets_received: 8_052,
        bytes_received: 4_637_952,
    };
    assert_eq!(*totals, parts);
}

#[test]
fn flows_and_rules_have_sums_of_their_own() {
    let denied = LOG.replace("23956,80,6,I,E,NX,52,29952,47,27072", "23957,80,6,I,D,NX,0,0,0,0");
    let sums: Vec<_> = sum(&denied).unwrap().into_values().collect();
    assert_eq!(sums.iter().map(|totals| (totals.begun, totals.denied)).collect::<Vec<_>>(), [(1, 0), (0, 1)]);
    assert_eq!(sums[1].bytes(), 0);
}

#[test]
fn what_is_no_flow_log_is_said() {
    let why = |text: &str| sum(text).unwrap_err().to_string();
    assert!(matches!(sum("{}"), Err(Unreadable::Json(_))));
    assert!(why(&LOG.replace("\"flowLogVersion\": 4", "\"flowLogVersion\": 2")).contains("version 2"));
    assert!(why(&LOG.replace(",I,B,", ",X,B,")).contains("neither I nor O"));
    assert!(why(&LOG.replace(",I,B,", ",I,Z,")).contains("B, C, E and D"));
    assert!(why(&LOG.replace(",1021,588096,8005,4610880", ",1021")).contains("13 fields"));
    assert!(why(&LOG.replace("588096", "many")).contains("no number"));
}
