//! The file of a request, loaded with what came along with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vnet_api::{ApplyRequest, Diagnostic, Severity};
use vnet_config::{Attachments, Loaded};

use super::error::ApiError;

/// A finding as the API shows it.
pub fn diagnostic(found: vnet_config::Diagnostic) -> Diagnostic {
    Diagnostic {
        severity: match found.severity {
            vnet_config::Severity::Error => Severity::Error,
            vnet_config::Severity::Warning => Severity::Warning,
        },
        code: found.code.unwrap_or(found.rule).into_owned(),
        path: found.path,
        file: found.origin,
        line: found.line,
        column: found.column,
        message: found.message,
        remedy: found.remedy,
        source_line: found.source_line,
        length: found.length,
    }
}

/// Loads the topology of a request. No file of this host is opened and no environment read for it.
///
/// # Errors
/// Everything that is wrong with the file (422), or an attachment that is no base64 (400).
pub fn load(request: &ApplyRequest) -> Result<Loaded, ApiError> {
    let file = &request.topology;
    let mut attachments = Attachments { env: file.environment.clone(), ..Attachments::default() };
    for (path, content) in &file.files {
        let content = STANDARD
            .decode(content)
            .map_err(|_| ApiError::bad_request(format!("The content of '{path}' is not base64.")))?;
        attachments.files.insert(path.clone(), content);
    }
    vnet_config::load_with(&file.text, &file.origin, &attachments)
        .map_err(|found| ApiError::refused(found.list.into_iter().map(diagnostic).collect()))
}
