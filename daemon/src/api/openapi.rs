//! The OpenAPI 3.1 document, gathered while the routes are declared: no route is without its description.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};
use vnet_api::ErrorBody;

/// What an operation takes and gives.
pub(crate) struct Operation {
    id: &'static str,
    summary: &'static str,
    query: Option<Schema>,
    request: Option<Schema>,
    response: Option<(&'static str, Schema)>,
}

/// Declares routes: each with its handler and its description.
pub(crate) struct Routes<S> {
    router: Router<S>,
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(crate) fn new() -> Routes<S> {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Routes { router: Router::new(), schemas: settings.into_generator(), paths: Map::new() }
    }

    /// Describes an operation; the name is unique and serves generated clients.
    pub(crate) fn operation(&self, id: &'static str, summary: &'static str) -> Operation {
        Operation { id, summary, query: None, request: None, response: None }
    }

    /// The schema of an answer or a request.
    pub(crate) fn schema<T: JsonSchema>(&mut self) -> Schema {
        self.schemas.subschema_for::<T>()
    }

    /// The schema of a query string, written out.
    pub(crate) fn query<T: JsonSchema>(&mut self) -> Schema {
        T::json_schema(&mut self.schemas)
    }

    /// Adds a route.
    pub(crate) fn add<H, T>(&mut self, method: Method, path: &str, operation: Operation, handler: H)
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("the API uses HTTP's own methods");
        let router = std::mem::take(&mut self.router);
        self.router = router.route(path, on(filter, handler));
        let described = operation.document(path);
        let item = self.paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        item[method.as_str().to_ascii_lowercase()] = described;
    }

    /// The router and the document.
    pub(crate) fn finish(mut self) -> (Router<S>, Value) {
        self.schemas.subschema_for::<ErrorBody>();
        let schemas = self.schemas.take_definitions(true);
        let document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "vnetd",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "Labs of Azure network designs with real packets. Served on a Unix socket; \
                                access is by the socket's group.",
                "license": { "name": "MIT OR Apache-2.0" }
            },
            "paths": self.paths,
            "components": { "schemas": schemas }
        });
        (self.router, document)
    }
}

impl Operation {
    pub(crate) fn query(mut self, schema: Schema) -> Operation {
        self.query = Some(schema);
        self
    }

    pub(crate) fn request(mut self, schema: Schema) -> Operation {
        self.request = Some(schema);
        self
    }

    pub(crate) fn answers(mut self, media_type: &'static str, schema: Schema) -> Operation {
        self.response = Some((media_type, schema));
        self
    }

    fn document(self, path: &str) -> Value {
        let mut parameters: Vec<Value> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        parameters.extend(self.query.iter().flat_map(query_parameters));
        let success = match self.response {
            Some((media_type, schema)) => {
                json!({ "description": "Done.", "content": { media_type: { "schema": schema } } })
            }
            None => json!({ "description": "Done." }),
        };
        let refused = json!({
            "description": "Refused or failed.",
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } }
        });
        let mut document = json!({
            "operationId": self.id,
            "summary": self.summary,
            "parameters": parameters,
            "responses": { "200": success, "default": refused }
        });
        if let Some(schema) = self.request {
            document["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        document
    }
}

fn query_parameters(schema: &Schema) -> Vec<Value> {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    properties
        .iter()
        .map(|(name, property)| {
            let mut property = property.clone();
            let description = property.as_object_mut().and_then(|object| object.remove("description"));
            let mut parameter = json!({
                "name": name, "in": "query", "required": required.contains(&name.as_str()), "schema": property
            });
            if let Some(description) = description {
                parameter["description"] = description;
            }
            parameter
        })
        .collect()
}
