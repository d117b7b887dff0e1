//! The API's wire types: what vnetctl asks and what vnetd answers, as JSON. No logic but parsing and printing.
//!
//! Times are in milliseconds or microseconds as the name says, sizes in bytes, rates in megabits a second of IP
//! packets. Property names are in camelCase.
#![forbid(unsafe_code)]

pub mod bgp;
pub mod error;
pub mod exec;
pub mod lab;
pub mod live;
pub mod matrix;
pub mod probe;
pub mod report;
pub mod service;

pub use bgp::{BgpPeerReport, BgpPeerState, BgpPeerStatus, GatewayRoute, GatewayRouteReport};
pub use error::{Diagnostic, ErrorBody, Severity};
pub use exec::{ExecEvent, ExecInput, ExecRequest};
pub use lab::{
    ApplyEvent, ApplyReport, ApplyRequest, Change, ChangeKind, Check, CheckStatus, DoctorReport, DownReport,
    Health, LabSummary, PlanReport, Progress, ProgressState, RESOURCE_KINDS, Resource, TopologyFile,
    ValidateReport,
};
pub use live::{
    CaptureRequest, ConfigFormat, DropCount, DropReport, FailRequest, Failover, FlowEndpoints, FlowEntry,
    FlowReport, FlowVerdict, GatewayReport, LogReport, PeerConfig, RunsIn, TunnelState, TunnelStatus,
};
pub use matrix::{MatrixAnswer, MatrixEntry, MatrixGroups, MatrixPair, MatrixReport, MatrixRun};
pub use probe::{
    ExpectOutcome, ExpectResult, PingEvent, PingRequest, PingSummary, ProbeComparison, ProbeOutcome,
    ProbeRequest, ProbeResult, RttSummary, TestEvent, TestRequest, TestSummary, TrafficEvent,
    TrafficInterval, TrafficReport, TrafficRequest,
};
pub use report::PathAnswer;
pub use service::{Protocol, Service, ServiceError};

/// Where the daemon listens when nothing else is said and it runs as a system service.
pub const SYSTEM_SOCKET: &str = "/run/vnetd/vnetd.sock";

/// Name of the socket below `XDG_RUNTIME_DIR`, for a daemon without `/run/vnetd`.
pub const RUNTIME_SOCKET: &str = "vnetd/vnetd.sock";

/// Media type of a capture.
pub const PCAPNG: &str = "application/x-pcapng";

/// Media type of a stream of one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";
