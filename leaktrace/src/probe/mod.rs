//! Where exactly leaktrace probes: the one table of hooked functions, who provides them in a process, which
//! instruction each probe sits on, and what that costs.

pub mod allocator;
pub mod command;
pub mod cost;
pub mod hooks;
pub mod link_map;
pub mod loaded;
pub mod padding;
pub mod plan;
pub mod site;
pub mod view;
mod x86_64;

#[cfg(test)]
mod real_programs;
