//! The calls of `ScheduleService` that read.

use tonic::Streaming;

use super::{Client, ClientError};
use crate::proto::v1;

/// The server's limit of the size of a page.
const PAGE_MAX: i32 = 1_000;

/// A watch of schedules.
#[derive(Debug)]
pub struct ScheduleWatch {
    client: Client,
    events: Streaming<v1::WatchSchedulesResponse>,
}

impl ScheduleWatch {
    /// Returns the next event, or `None` if the server has ended the watch.
    pub async fn next(&mut self) -> Option<Result<v1::WatchSchedulesResponse, ClientError>> {
        let event = self.events.message().await;
        event.map_err(|status| self.client.error(&status)).transpose()
    }
}

impl Client {
    /// Returns one schedule.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetSchedule` in the protocol for the refusals.
    pub async fn get_schedule(&self, name: impl Into<String>) -> Result<v1::Schedule, ClientError> {
        let request = v1::GetScheduleRequest { name: name.into(), ..Default::default() };
        let answer = self.answer(self.schedule_service().get_schedule(self.request(request))).await?;
        self.present(answer.schedule, "schedule")
    }

    /// Returns a page of schedules, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_schedules(
        &self,
        request: v1::ListSchedulesRequest,
    ) -> Result<v1::ListSchedulesResponse, ClientError> {
        self.answer(self.schedule_service().list_schedules(self.request(request))).await
    }

    /// Returns the next instants of a stored schedule, or of a specification.
    ///
    /// # Errors
    /// [`ClientError`]; see `PreviewSchedule` in the protocol for the refusals.
    pub async fn preview_schedule(
        &self,
        request: impl Into<v1::PreviewScheduleRequest>,
    ) -> Result<v1::PreviewScheduleResponse, ClientError> {
        self.answer(self.schedule_service().preview_schedule(self.request(request.into()))).await
    }

    /// Watches schedules. The watch ends with the connection, and is not resumed: call again, and it begins with each
    /// schedule as it is.
    ///
    /// # Errors
    /// [`ClientError`]; see `WatchSchedules` in the protocol for the refusals.
    pub async fn watch_schedules(
        &self,
        request: v1::WatchSchedulesRequest,
    ) -> Result<ScheduleWatch, ClientError> {
        let events = self.answer(self.schedule_service().watch_schedules(self.request(request))).await?;
        Ok(ScheduleWatch { client: self.clone(), events })
    }

    /// Returns one calendar.
    ///
    /// # Errors
    /// [`ClientError`]; see `GetCalendar` in the protocol for the refusals.
    pub async fn get_calendar(&self, name: impl Into<String>) -> Result<v1::Calendar, ClientError> {
        let request = v1::GetCalendarRequest { name: name.into(), ..Default::default() };
        let answer = self.answer(self.schedule_service().get_calendar(self.request(request))).await?;
        self.present(answer.calendar, "calendar")
    }

    /// Returns all calendars, by name, from as many pages as there are.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_calendars(&self) -> Result<Vec<v1::Calendar>, ClientError> {
        let (mut calendars, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListCalendarsRequest { page_size: PAGE_MAX, page_token, ..Default::default() };
            let page = self.answer(self.schedule_service().list_calendars(self.request(request))).await?;
            calendars.extend(page.calendars);
            if page.next_page_token.is_empty() {
                return Ok(calendars);
            }
            page_token = page.next_page_token;
        }
    }
}
