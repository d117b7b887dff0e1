//! Prints the hub-and-spoke topology of as many virtual networks as the first argument says; the second is the next hop
//! type of the route that a change is made of.

fn main() {
    let mut arguments = std::env::args().skip(1);
    let networks = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1_000);
    let next_hop_type = arguments.next().unwrap_or_else(|| "None".to_owned());
    print!("{}", vnet_integration::scale::topology_with_route(networks, &next_hop_type));
}
