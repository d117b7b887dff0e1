//! A blocking rtnetlink socket.
//!
//! A netlink socket belongs to the namespace of the thread that opens it, and stays there. Blocking requests need neither a
//! runtime nor a task for each namespace, which is what keeps a thousand of them cheap.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::error::{Context, HostError, Result};
use super::netns::Netns;

/// Netlink messages start at multiples of four bytes.
const ALIGNMENT: usize = 4;

/// Requests that are sent at once: their answers fit into a socket's buffer of any size.
const BATCH_MAX: usize = 64;

/// One request of a batch.
pub(crate) struct Request {
    pub(crate) action: &'static str,
    pub(crate) object: String,
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
    /// Whether what follows is as well off without it.
    pub(crate) may_fail: bool,
}

/// A socket to the routing part of one namespace's kernel.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens a socket to the namespace of the calling thread.
    ///
    /// # Errors
    /// Where the process is out of descriptors.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).on("open", "a netlink socket")?;
        socket.bind_auto().on("bind", "a netlink socket")?;
        // Filters of a dump are honoured only so; kernels before 4.20 lack it, and the answers are filtered here anyway.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0 })
    }

    /// Opens a socket to `ns`, to be used from any thread. It holds the namespace as a descriptor does.
    ///
    /// # Errors
    /// As [`Netns::run`] and [`Netlink::open`].
    pub fn open_in(ns: &Netns) -> Result<Self> {
        ns.run(Self::open)?
    }

    /// Sends a request and waits for the kernel's word on it.
    pub(crate) fn request(
        &mut self,
        action: &'static str,
        object: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        self.send(action, message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(action, object).map(drop)
    }

    /// Asks for one object.
    pub(crate) fn get(
        &mut self,
        action: &'static str,
        object: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.send(action, message, NLM_F_REQUEST | NLM_F_ACK)?;
        self.receive(action, object)
    }

    /// Asks for every object of a kind.
    pub(crate) fn dump(
        &mut self,
        action: &'static str,
        object: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.send(action, message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.receive(action, object)
    }

    /// Sends several requests at once, which the kernel carries out in their order, and waits for its word on each.
    ///
    /// # Errors
    /// The first that the kernel refused, but for those that it may refuse; the others have been carried out.
    pub(crate) fn batch(&mut self, requests: Vec<Request>) -> Result<()> {
        let mut rest = requests.into_iter().peekable();
        let mut failure = None;
        while rest.peek().is_some() {
            let mut bytes = Vec::new();
            let mut sent = Vec::new();
            for request in rest.by_ref().take(BATCH_MAX) {
                bytes.extend(self.message(request.message, NLM_F_REQUEST | NLM_F_ACK | request.flags));
                sent.push((self.sequence, request.action, request.object, request.may_fail));
            }
            self.socket.send(&bytes, 0).on("send netlink requests to", "the kernel")?;
            for (sequence, action, object, may_fail) in sent {
                match self.receive_for(sequence, action, &object) {
                    Err(error) if !may_fail => failure = failure.or(Some(error)),
                    _ => {}
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn send(&mut self, action: &'static str, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        let bytes = self.message(message, flags);
        self.socket.send(&bytes, 0).on("send a netlink request to", action)?;
        Ok(())
    }

    /// The bytes of a message with the next number.
    fn message(&mut self, message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(ALIGNMENT)];
        message.serialize(&mut bytes);
        bytes
    }

    /// Collects answers until the acknowledgement or the end of the dump.
    fn receive(&mut self, action: &'static str, object: &str) -> Result<Vec<RouteNetlinkMessage>> {
        self.receive_for(self.sequence, action, object)
    }

    fn receive_for(
        &mut self,
        sequence: u32,
        action: &'static str,
        object: &str,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full().on("read the netlink answer to", action)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| HostError::Protocol { action, detail: error.to_string() })?;
                let length = (message.header.length as usize).next_multiple_of(ALIGNMENT);
                rest = rest.get(length.max(ALIGNMENT)..).unwrap_or_default();
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return Err(HostError::Netlink {
                            action,
                            object: object.to_owned(),
                            source: error.to_io(),
                        });
                    }
                    NetlinkPayload::Overrun(_) => {
                        return Err(HostError::Protocol {
                            action,
                            detail: "the socket's buffer overran".into(),
                        });
                    }
                    _ => {}
                }
            }
        }
    }
}
