//! AF_PACKET sockets: packet(7).
