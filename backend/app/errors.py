"""One tree of errors; each class carries its HTTP status, its stable code and a title.

The sentence passed to the constructor is shown to the person who sent the request: it says what
was wrong and what to do, and never repeats a library's exception text.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Root of every error that may reach a client; `detail` is the sentence shown."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    default_detail: ClassVar[str] = (
        "The service failed on this request. Try again; if it fails again, give the operator the request id."
    )
    default_retry_after: ClassVar[int | None] = None

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None) -> None:
        self.detail = detail or self.default_detail
        self.retry_after = retry_after if retry_after is not None else self.default_retry_after
        super().__init__(self.detail)


class InternalError(ServiceError):
    """A fault of the service itself."""


class MalformedRequest(ServiceError):
    status, code, title = 400, "malformed_request", "Malformed request"
    default_detail = (
        "The request body could not be parsed. Send multipart/form-data with the picture in the field 'image'."
    )


class UnknownFormat(ServiceError):
    status, code, title = 400, "unknown_format", "Unknown format"
    default_detail = "Field 'output_format' has a value this service does not know."


class Unauthorized(ServiceError):
    status, code, title = 401, "unauthorized", "API key needed"
    default_detail = "Send a valid API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."


class NotFound(ServiceError):
    status, code, title = 404, "not_found", "Not found"
    default_detail = "There is nothing at this address. GET / lists the routes."


class TaskNotFound(NotFound):
    code, title = "task_not_found", "No such task"
    default_detail = "There is no task with this id. It was deleted, or kept longer than this service keeps tasks."


class TaskFileNotFound(NotFound):
    code, title = "task_file_not_found", "No such file"
    default_detail = (
        "This task has no such file. Its files are there once its status is 'succeeded'; its result lists them."
    )


class TaskPageNotFound(NotFound):
    code, title = "task_page_not_found", "No such page"
    default_detail = "This task does not have that page: its document has fewer, or others were asked for."


class InvalidPath(ServiceError):
    status, code, title = 400, "invalid_path", "Invalid path"
    default_detail = "The address leads outside the files of the task."


class MethodNotAllowed(ServiceError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"
    default_detail = "This address does not take that HTTP method; /docs shows which it takes."


class UploadTimeout(ServiceError):
    status, code, title = 408, "upload_timeout", "Upload too slow"
    default_detail = "The upload stalled and was given up. Send it again."


class TaskConflict(ServiceError):
    status, code, title = 409, "task_conflict", "Not in this state"
    default_detail = "The task is in a state that does not allow this."


class IdempotencyConflict(ServiceError):
    status, code, title = 409, "idempotency_conflict", "Idempotency key used before"
    default_detail = (
        "The Idempotency-Key was sent before with another file or other fields. Send a new key for a new document."
    )


class UploadTooLarge(ServiceError):
    status, code, title = 413, "upload_too_large", "Upload too large"
    default_detail = "The upload is larger than this service accepts."


class TooManyPixels(ServiceError):
    status, code, title = 413, "too_many_pixels", "Picture too large"
    default_detail = "The picture has more pixels than this service accepts. Scale it down."


class TooManyFrames(ServiceError):
    status, code, title = 413, "too_many_frames", "Too many frames"
    default_detail = "The file has more frames than this service accepts. Send one picture."


class TooManyPages(ServiceError):
    status, code, title = 413, "too_many_pages", "Too many pages to wait for"
    default_detail = "The document has more pages than this address reads. Send it to POST /api/ocr/pdf."


class UnsupportedMediaType(ServiceError):
    status, code, title = 415, "unsupported_media_type", "Unsupported file type"
    default_detail = "Send a picture as JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 or HEIC, or a PDF."


class InvalidParameter(ServiceError):
    status, code, title = 422, "invalid_parameter", "Invalid parameter"
    default_detail = "A form field has a value this service does not accept."


class ModeNotSupported(InvalidParameter):
    code, title = "mode_not_supported", "Mode not supported by this engine"


class ContextTooLong(InvalidParameter):
    code, title = "context_too_long", "Longer than the model's context"
    default_detail = "The picture and the prompt are longer than the model's context. Shorten the prompt or choose a smaller resolution."


class UnreadableImage(ServiceError):
    status, code, title = 422, "unreadable_image", "Unreadable picture"
    default_detail = "The picture is damaged or cut short and could not be decoded. Check that it opens in a viewer and send it again."


class EmptyUpload(UnreadableImage):
    code, title = "empty_upload", "Empty file"
    default_detail = "The uploaded file is empty."


class UnreadablePdf(ServiceError):
    status, code, title = 422, "unreadable_pdf", "Unreadable PDF"
    default_detail = (
        "The file begins as a PDF does, but it is damaged, cut short, has no pages or is no PDF after all. "
        "Check that it opens in a viewer, save it again, and send that."
    )


class PasswordRequired(InvalidParameter):
    code, title = "password_required", "Password needed"
    default_detail = "The PDF is encrypted. Send the password that opens it in the field 'password'."


class WrongPassword(InvalidParameter):
    code, title = "wrong_password", "Wrong password"
    default_detail = "The password in the field 'password' does not open the PDF."


class WebhookRefused(InvalidParameter):
    code, title = "webhook_refused", "Webhook address refused"
    default_detail = "Field 'webhook_url' must be an http or https address with a public host."


class PageOutOfRange(InvalidParameter):
    code, title = "page_out_of_range", "No such page"
    pages: int | None = None

    @classmethod
    def of(cls, number: int, pages: int, field: str = "page") -> PageOutOfRange:
        """Return the error for page `number`, asked for in `field`, of a file that has `pages` pages."""
        has = "1 page" if pages == 1 else f"{pages:,} pages"
        error = cls(f"Field '{field}' asks for page {number:,}, and the file has {has}. The first is page 1.")
        error.pages = pages
        return error


class DecodeTimeout(ServiceError):
    status, code, title = 422, "decode_timeout", "File too slow to decode"
    default_detail = "The file took too long to decode and was given up. Save it again as JPEG or PNG, or smaller."


class ClientGone(ServiceError):
    """Nobody reads this answer; it is for the log and the metrics. 499 is nginx's number for it."""

    status, code, title = 499, "client_gone", "Client closed the connection"
    default_detail = "The client closed the connection before its answer was ready."


class QueueFull(ServiceError):
    status, code, title = 429, "queue_full", "Too many requests waiting"
    default_detail = "The service has as much work as it accepts. Send the request again after the time in Retry-After."
    default_retry_after = 5


class TooManyTasks(ServiceError):
    status, code, title = 429, "too_many_tasks", "Too many documents waiting"
    default_detail = (
        "The service has as many unfinished documents as it accepts. Send it again after the time in Retry-After."
    )
    default_retry_after = 60


class ResultFailed(ServiceError):
    status, code, title = 500, "result_failed", "File not written"
    default_detail = (
        "The file could not be written: the document is too large for this format, or the service failed on it. "
        "Take another format."
    )


class JobsDisabled(ServiceError):
    status, code, title = 501, "jobs_disabled", "No documents here"
    default_detail = "The operator has turned documents off. POST /api/ocr reads a single page, POST /api/process-pdf a short document."


class DatabaseUnavailable(ServiceError):
    status, code, title = 503, "database_unavailable", "Database unavailable"
    default_detail = (
        "The database of the documents does not answer. Send the request again after the time in Retry-After."
    )
    default_retry_after = 10


class ResultNotReady(ServiceError):
    status, code, title = 503, "result_not_ready", "File still being written"
    default_detail = (
        "The file is still being written. Ask for it again after the time in Retry-After: nothing is begun anew."
    )
    default_retry_after = 10


class EngineNotReady(ServiceError):
    status, code, title = 503, "engine_not_ready", "Engine not ready"
    default_detail = "The OCR engine is still loading. Send the request again after the time in Retry-After."
    default_retry_after = 5


class EngineFailed(ServiceError):
    status, code, title = 503, "engine_failed", "Engine failed"
    default_detail = "The OCR engine stopped while reading this page and is being restarted. Send the request again."
    default_retry_after = 5


class EngineStartError(EngineFailed):
    """The engine could not be loaded; the sentence names the cause and the remedy."""

    code, title = "engine_start_failed", "Engine could not start"
    default_detail = "The OCR engine could not be loaded. The operator finds the cause in the service's log."
    default_retry_after = 30


class OutOfMemory(ServiceError):
    status, code, title = 503, "out_of_memory", "Out of memory"
    default_detail = "The engine ran out of memory on this page. Send it again later or scaled down."
    default_retry_after = 10


class ShuttingDown(ServiceError):
    status, code, title = 503, "shutting_down", "Shutting down"
    default_detail = "The service is shutting down. Send the request again after the time in Retry-After."
    default_retry_after = 10


class RecognitionTimeout(ServiceError):
    status, code, title = 504, "recognition_timeout", "Recognition took too long"
    default_detail = (
        "Reading this page took longer than the service allows. Send it again when it is less busy, or scaled down."
    )


class ResultTimeout(ServiceError):
    status, code, title = 504, "result_timeout", "Writing the file took too long"
    default_detail = "Writing the file took longer than the service allows and was given up. Take another format."


class StorageFull(ServiceError):
    status, code, title = 507, "storage_full", "Storage full"
    default_detail = "The service has no room for another document. Delete tasks that are done with, or try later."
