//! Gateways: their tunnels, the configuration of what is at the other ends, and their BGP speakers.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::Deserialize;
use vnet_api::{BgpPeerReport, GatewayRouteReport};

use super::App;
use super::backend::{Answer, Backend};
use super::extract::{Json, Params};

#[derive(Deserialize, JsonSchema)]
pub(crate) struct PeerQuery {
    /// Only what this peer is told.
    peer: Option<IpAddr>,
}

pub(crate) async fn bgp_peers<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path((lab, gateway)): Path<(String, String)>,
) -> Answer<Json<BgpPeerReport>> {
    Ok(Json(app.backend.bgp_peers(&lab, &gateway).await?))
}

pub(crate) async fn learned<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path((lab, gateway)): Path<(String, String)>,
) -> Answer<Json<GatewayRouteReport>> {
    Ok(Json(app.backend.learned_routes(&lab, &gateway).await?))
}

pub(crate) async fn advertised<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path((lab, gateway)): Path<(String, String)>,
    Params(query): Params<PeerQuery>,
) -> Answer<Json<GatewayRouteReport>> {
    Ok(Json(app.backend.advertised_routes(&lab, &gateway, query.peer).await?))
}
