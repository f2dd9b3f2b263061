/** swagger-page.js: starts Swagger UI on the service's own document; credentials stay in memory. */

window.ui = SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: document.body.dataset.document,
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // The default asks a server of its makers for a verdict on the document.
  validatorUrl: null,
});
