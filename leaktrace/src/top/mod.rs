//! `leaktrace top`: a trace, live in the terminal. A process of its own traces ([`crate::session`]); here its reports become pictures.
//! What is shown ([`App`]: reports and keys in, a picture out) knows nothing of terminals; how it is drawn ([`view`]) changes nothing
//! but places on the screen; [`live`] has the threads, the signals and the terminal.

mod about;
mod app;
mod choice;
mod history;
mod keys;
mod lines;
mod list;
pub mod live;
mod messages;
mod picture;
mod prompt;
mod row;
mod spark;
mod terminal;
mod theme;
pub mod view;
mod watcher;

pub use about::About;
pub use app::{Action, App};
pub use theme::Theme;
use view::draw;
