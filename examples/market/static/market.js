// Keeps the prices on the page fresh, and trades.
"use strict";

const REFRESH_MS = 1000;
const markets = document.getElementById("markets");
const message = document.getElementById("message");

async function call(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: { "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  return { status: response.status, ...(await response.json()) };
}

function show(market) {
  const section = markets.querySelector(`[data-market="${market.id}"]`);
  if (!section) return location.reload(); // somebody opened a market: the server renders it
  section.querySelector("small").textContent = `${market.trades} trades`;
  section.querySelectorAll("li").forEach((row, outcome) => {
    row.querySelector("meter").value = market.prices[outcome];
    row.querySelector("output").textContent = market.prices[outcome].toFixed(3);
  });
}

async function refresh() {
  if (!document.hidden) (await call("GET", "/markets")).markets.forEach(show);
}

async function trade(id, outcome, shares, outcomes) {
  const quantity = Array(outcomes).fill(0);
  quantity[outcome] = shares;
  // No price is agreed yet. The refusal names it; the visitor agrees or not.
  const quote = await call("POST", `/markets/${id}/trades`, { quantity, price: 1e12 });
  if (quote.status !== 409) return (message.textContent = quote.error);
  const cost = quote.price.toFixed(2);
  if (!confirm(shares > 0 ? `Pay ${cost}?` : `Receive ${-cost}?`)) return;
  const done = await call("POST", `/markets/${id}/trades`, { quantity, price: quote.price });
  message.textContent = done.status === 201 ? `Traded at ${done.price.toFixed(2)}.` : `${done.error} (now ${done.price})`;
  if (done.market) show(done.market);
}

markets.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const section = button.closest("section");
  trade(section.dataset.market, +button.dataset.outcome, +button.dataset.shares, section.querySelectorAll("li").length);
});

document.getElementById("create").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const made = await call("PUT", `/markets/${form.get("id")}`, { b: +form.get("b"), outcomes: +form.get("outcomes") });
  if (made.status < 300) location.reload();
  else message.textContent = made.error;
});

setInterval(() => refresh().catch((error) => (message.textContent = `not reachable: ${error.message}`)), REFRESH_MS);
