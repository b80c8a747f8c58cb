//! Two pipelines with the handlers of every connection and virtual time: bytes between them and
//! arbitrary bytes, in pieces of any size.

use std::time::{Duration, Instant};

use rpc_runtime::handlers::{Heartbeat, HeartbeatHandler, HeartbeatMode, RefuseUnknown};
use rpc_runtime::pipeline::{Change, EmbeddedChannel, Watermarks};
use rpc_runtime::protocol::{Flags, Frame, FrameCodec, Header, Kind};
use rpc_runtime::{RpcError, Status};

use crate::input::Input;

/// Steps of one input.
const STEPS: usize = 256;
/// Maximum bytes of pings and pongs that wait to be written.
const MOST_HEARTBEATS: usize = 2 << 10;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let modes = [HeartbeatMode::Bidirectional, HeartbeatMode::Client, HeartbeatMode::Off];
    let heartbeat = Heartbeat::default()
        .mode(modes[usize::from(input.byte()) % modes.len()])
        .interval(Duration::from_millis(1_000 + u64::from(input.u16())));
    let now = Instant::now();
    let mut ends = [
        end(now, HeartbeatHandler::client(heartbeat)),
        end(now, HeartbeatHandler::server(heartbeat)),
    ];
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut input, &mut ends);
    }
    for end in &mut ends {
        end.inactive(&RpcError::unavailable("the end"));
        drain(end);
    }
}

fn end(now: Instant, heartbeat: HeartbeatHandler) -> EmbeddedChannel {
    let codec = FrameCodec::new(2_000).with_max_control(1_000);
    let mut end = EmbeddedChannel::with_codec(now, codec, Watermarks::default());
    if let Some(idle) = heartbeat.idle_handler() {
        end.change(Change::add_last("idle", idle)).unwrap();
    }
    end.change(Change::add_last("heartbeat", heartbeat)).unwrap();
    end.change(Change::add_last("refuse-unknown", RefuseUnknown)).unwrap();
    end.active();
    end
}

fn step(input: &mut Input<'_>, [client, server]: &mut [EmbeddedChannel; 2]) {
    let what = input.byte();
    let (end, other) = if what & 1 == 0 { (client, server) } else { (server, client) };
    match (what >> 1) % 6 {
        0 => {
            let bytes = input.bytes(usize::from(what >> 4) * 8 + 1);
            end.write_inbound_bytes(bytes);
        }
        1 => {
            let bytes = other.take_output();
            let piece = usize::from(what >> 4) * 20 + 1;
            bytes.chunks(piece).for_each(|piece| end.write_inbound_bytes(piece));
        }
        2 => {
            let passed = Duration::from_millis(input.u16().into());
            end.advance_time_by(passed);
            other.advance_time_by(passed);
        }
        3 => {
            let header = Header {
                id: input.byte().into(),
                flags: Flags::from_bits(input.byte().into()),
                ..Header::new(Kind::from_wire(input.byte()))
            };
            // Heartbeats are the handler's to write, and it bounds them.
            if matches!(header.kind, Kind::Ping | Kind::Pong) {
                return;
            }
            let _ = end.write_outbound(Frame::new(header, input.bytes(usize::from(what >> 4))));
        }
        4 => {
            let header = Header {
                id: input.byte().into(),
                length: input.u32(),
                ..Header::new(Kind::from_wire(input.byte()))
            };
            end.write_inbound_bytes(&header.encode());
        }
        _ if what >> 4 == 15 => end.close(RpcError::new(Status::Cancelled, "closed")),
        _ => drain(end),
    }
    let pending = end.pipeline().heartbeat_bytes();
    assert!(pending <= MOST_HEARTBEATS, "{pending} bytes of heartbeats wait");
}

fn drain(end: &mut EmbeddedChannel) {
    while let Some(frame) = end.read_inbound() {
        assert!(!matches!(frame.header.kind, Kind::Ping | Kind::Pong | Kind::Unknown(_)));
    }
    while end.read_user_event().is_some() || end.read_failed_write().is_some() {}
}
