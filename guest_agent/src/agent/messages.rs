//! The messages of `guest_agent/proto/agent.proto`, where their fields are explained, and those of ttrpc itself.
//! `tests/unit/microvm/test_agent_messages.py` holds the numbers here to the proto's.

use crate::protobuf::messages;
use std::collections::BTreeMap;

messages! {
    // -- ttrpc: request.proto, status.proto
    Request { service: String = 1, method: String = 2, payload: Vec<u8> = 3, timeout_nano: i64 = 4 }
    Status { code: u32 = 1, message: String = 2 }
    Response { status: Option<Status> = 1, payload: Vec<u8> = 2 }

    // -- agent.proto
    CheckResponse { version: u32 = 1, kernel: String = 2, processors: u32 = 3, memory: u64 = 4, agent: String = 5 }
    PrepareRequest { seed: Vec<u8> = 1, realtime_ns: u64 = 2, hostname: String = 3 }
    RehearseRequest { device_program: Vec<u8> = 1 }
    GrowRequest { processors: u32 = 1, memory: u64 = 2, timeout_ms: u32 = 3 }
    AttachRequest {
        name: String = 1, kind: String = 2, source: String = 3, read_only: bool = 4, timeout_ms: u32 = 5,
    }
    AttachResponse { path: String = 1, major: u32 = 2, minor: u32 = 3 }
    DetachRequest { name: String = 1 }
    Interface { mac: String = 1, name: String = 2, mtu: u32 = 3, addresses: Vec<String> = 4 }
    Route {
        destination: String = 1, gateway: String = 2, source: String = 3, device: String = 4, scope: u32 = 5,
        metric: u32 = 6, onlink: bool = 7, ipv6: bool = 8,
    }
    Neighbour { address: String = 1, mac: String = 2, device: String = 3 }
    ConnectRequest {
        interfaces: Vec<Interface> = 1, routes: Vec<Route> = 2, neighbours: Vec<Neighbour> = 3, timeout_ms: u32 = 4,
    }
    Stdio { terminal: bool = 1, width: u32 = 2, height: u32 = 3, stdin: bool = 4 }
    FileWrite { file: String = 1, value: String = 2 }
    CreateRequest {
        container: String = 1, plan: Vec<u8> = 2, cgroup: String = 3, limits: Vec<FileWrite> = 4,
        device_program: Vec<u8> = 5, stdio: Option<Stdio> = 6, uid_map: String = 7, gid_map: String = 8,
        time_offsets: String = 9, timeout_ms: u32 = 10,
    }
    ProcessResponse { pid: u32 = 1 }
    StartRequest { container: String = 1 }
    ExecRequest {
        container: String = 1, exec_id: String = 2, plan: Vec<u8> = 3, stdio: Option<Stdio> = 4, cgroup: String = 5,
    }
    SignalRequest { container: String = 1, exec_id: String = 2, signal: u32 = 3, everyone: bool = 4 }
    ResizeRequest { container: String = 1, exec_id: String = 2, width: u32 = 3, height: u32 = 4 }
    ContainerRequest { container: String = 1 }
    PidsResponse { pids: Vec<u32> = 1 }
    ReadRequest { container: String = 1, files: Vec<String> = 2 }
    ReadResponse { contents: BTreeMap<String, String> = 1 }
    WriteRequest { container: String = 1, writes: Vec<FileWrite> = 2, device_program: Vec<u8> = 3 }
    Chunk {
        container: String = 1, exec_id: String = 2, stream: u32 = 3, data: Vec<u8> = 4, end: bool = 5, credit: u32 = 6,
        drained: bool = 7,
    }
    Event {
        container: String = 1, exec_id: String = 2, oom: bool = 3, code: u32 = 4, realtime_ns: u64 = 5,
        sequence: u64 = 6,
    }
}
