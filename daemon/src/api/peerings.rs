//! Peerings: their state, and the sync of their ranges.

use std::sync::Arc;

use axum::extract::{Path, State};
use vnet_fabric::effective::EffectivePeering;

use super::App;
use super::backend::{Answer, Backend};
use super::extract::Json;
use super::labs::List;

pub(crate) async fn list<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path(lab): Path<String>,
) -> Answer<Json<List<EffectivePeering>>> {
    Ok(Json(List { value: app.backend.peerings(&lab).await? }))
}

pub(crate) async fn sync<B: Backend>(
    State(app): State<Arc<App<B>>>,
    Path((lab, network, remote)): Path<(String, String, String)>,
) -> Answer<Json<EffectivePeering>> {
    Ok(Json(app.backend.sync_peering(&lab, &network, &remote).await?))
}
